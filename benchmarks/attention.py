"""Time and memory of an attention call, forward and backward, with each backend and PyTorch's SDPA.

The calls take turns, so that a change of the device's clock affects all of them. It prints medians.

    python benchmarks/attention.py --device cuda
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_lab.attention.backends.api import EAGER, FLEX, FUSED, SDPA, Backend
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.masks import Causal
from attention_lab.attention.normalizers import Softmax
from attention_lab.attention.scores import Additive, ScaledDotProduct, Score

Call = Callable[[Tensor, Tensor, Tensor], Tensor]


class Shape(NamedTuple):
    """Batch, heads, length and head size of one call."""

    batch: int
    heads: int
    length: int
    head_dim: int


SHAPES = {
    "cpu": [Shape(4, 4, 128, 32), Shape(2, 8, 512, 64), Shape(1, 8, 2048, 64)],
    "cuda": [Shape(64, 4, 128, 32), Shape(8, 8, 1024, 64), Shape(2, 16, 4096, 64)],
}


class Measured(NamedTuple):
    """Medians of one call."""

    milliseconds: float
    megabytes: float


def ours(score: Score, backend: Backend) -> Call:
    spec = AttentionSpec(score, Softmax())
    return lambda q, k, v: backend.compute(AttentionInputs(q, k, v, Causal()), spec)[0]


def torch_sdpa(kernel: SDPBackend | None) -> Call:
    def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    if kernel is None:
        return call

    def restricted(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return call(query, key, value)

    return restricted


def calls(shape: Shape, device: str, dtype: torch.dtype) -> Iterator[tuple[str, Call]]:
    """The calls to compare, with their names; ratios are relative to the first."""
    scaled = ScaledDotProduct(shape.heads, shape.head_dim).to(device, dtype)
    additive = Additive(shape.heads, shape.head_dim).to(device, dtype)
    yield "torch SDPA", torch_sdpa(None)
    yield "scaled dot product, sdpa", ours(scaled, SDPA)
    yield "scaled dot product, eager", ours(scaled, EAGER)
    if device == "cuda":
        yield "scaled dot product, flex", ours(scaled, FLEX)
        for kernel in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
            yield f"torch SDPA, {kernel.lower()}", torch_sdpa(getattr(SDPBackend, kernel))
    yield "additive, fused", ours(additive, FUSED)
    # Four tensors of size (B, H, L, L, E): the sum, its tanh, and their gradients.
    needed = 4 * shape.length * dtype.itemsize * torch.Size(shape).numel()
    if needed < free_memory(device):
        yield "additive, eager", ours(additive, EAGER)


def free_memory(device: str) -> int:
    """Free memory in bytes."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def run(call: Call, inputs: list[Tensor], device: str) -> Measured:
    """Run one call forward and backward, and measure it."""
    before = 0
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    output = call(*inputs)
    torch.autograd.grad(output, inputs, torch.ones_like(output))
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else math.nan
    return Measured(1000 * seconds, peak / 1e6)


def measure(
    shape: Shape, device: str, dtype: torch.dtype, rounds: int
) -> dict[str, Measured | str]:
    """The medians of each call, or its error message, by name."""
    batch, heads, length, head_dim = shape
    inputs = [
        torch.randn(batch, heads, length, head_dim, device=device, dtype=dtype, requires_grad=True)
        for _ in range(3)
    ]
    results: dict[str, Measured | str] = {}
    able = {}
    for name, call in calls(shape, device, dtype):
        try:
            for _ in range(3):
                run(call, inputs, device)
            able[name] = call
        except RuntimeError as error:  # the kernel cannot compute this call: the table says why
            results[name] = str(error).strip().partition("\n")[0][:60]
    times: dict[str, list[Measured]] = {name: [] for name in able}
    for _ in range(rounds):
        for name, call in able.items():
            times[name].append(run(call, inputs, device))
    for name, each in times.items():
        results[name] = Measured(
            statistics.median(one.milliseconds for one in each),
            statistics.median(one.megabytes for one in each),
        )
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    device: str = chosen.device
    torch.manual_seed(0)
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{device} ({name}), torch {torch.__version__}, causal, forward + backward")
    for dtype in [torch.bfloat16, torch.float32] if device == "cuda" else [torch.float32]:
        for shape in SHAPES[device]:
            results = measure(shape, device, dtype, chosen.rounds)
            first = results["torch SDPA"]
            table = Table("what", "ms", "× SDPA", "peak MB", title=f"{shape}, {dtype}")
            for name, each in results.items():
                if isinstance(each, str) or isinstance(first, str):
                    table.add_row(name, str(each), "", "")
                else:
                    ratio = each.milliseconds / first.milliseconds
                    table.add_row(
                        name, f"{each.milliseconds:.3f}", f"{ratio:.2f}", f"{each.megabytes:.0f}"
                    )
            Console(width=100).print(table)


if __name__ == "__main__":
    main()
