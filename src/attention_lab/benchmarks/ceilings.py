"""The highest rates of the device: matrix products, copies, exponentials; all are measured."""

from typing import NamedTuple

import torch
from torch import Tensor

from attention_lab.benchmarks.timing import Call, seconds_of

#: How often each call is timed; the shortest time is used.
REPEAT = 10
#: Exponentials of each number on a GPU, fused into one kernel, so that loading it costs little.
CHAIN = 32


class Work(NamedTuple):
    """What a call must at least do, by its formula."""

    #: Floating-point operations of matrix products.
    flops: float
    #: Bytes of inputs, outputs and gradients, each moved once.
    bytes: float
    #: Exponentials, tanh and other special functions.
    specials: float


class Ceilings(NamedTuple):
    """Measured rates of a device, per second."""

    flops: float
    bytes: float
    specials: float

    def seconds(self, work: Work) -> float:
        """The time of some work at these rates; the slowest of the three parts decides."""
        return max(amount / rate for amount, rate in zip(work, self, strict=True))


def measure_ceilings(device: str, dtype: torch.dtype) -> Ceilings:
    """The rates of a device; matrix products in ``dtype``, exponentials in single precision."""
    size, numbers, cached = (
        (8192, 1 << 28, 1 << 24) if device == "cuda" else (1024, 1 << 25, 1 << 17)
    )
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    product = torch.empty_like(matrix)
    flops = 2 * size**3 / _fastest(lambda: torch.mm(matrix, matrix, out=product), device)
    source = torch.zeros(numbers, device=device)
    target = torch.zeros_like(source)
    copied = 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)
    return Ceilings(flops, copied, _exponentials(torch.rand(cached, device=device)))


def _exponentials(numbers: Tensor) -> float:
    """Exponentials per second."""
    result = torch.empty_like(numbers)
    if numbers.device.type == "cpu":
        return numbers.numel() / _fastest(lambda: torch.exp(numbers, out=result), "cpu")

    def chain(x: Tensor) -> Tensor:
        for _ in range(CHAIN):
            x = torch.exp(-x)
        return x

    compiled = torch.compile(chain)
    return CHAIN * numbers.numel() / _fastest(lambda: compiled(numbers), "cuda")


def _fastest(call: Call, device: str) -> float:
    """The time of the fastest of several calls, in seconds."""
    call()
    return min(seconds_of(call, device) for _ in range(REPEAT))
