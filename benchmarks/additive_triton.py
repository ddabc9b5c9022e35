"""Time and memory of additive attention's kernel for GPUs, beside the eager formula.

The rate counts the terms w · tanh(q + k) of a forward pass. The bound is one special function for
each, of which a multiprocessor computes 16 in a clock cycle.

    python benchmarks/additive_triton.py

On the CPU it only shows that the benchmark runs: `TRITON_INTERPRET=1 python
benchmarks/additive_triton.py --device cpu --shape 1 1 32 16 --lengths 32 64 --repeat 1`
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention_lab.attention.backends.api import EAGER, FUSED, Backend
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.backends.validation import triton_computes
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.normalizers import Softmax
from attention_lab.attention.scores import Additive
from attention_lab.benchmarks.timing import Timing, interleaved, peak_memory

Step = Callable[[], object]


def inputs(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> AttentionInputs:
    """Queries, keys and values (B, H, L, E) that need gradients."""
    query, key, value = (
        torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    return AttentionInputs(query, key, value)


def steps(backend: Backend, given: AttentionInputs, spec: AttentionSpec) -> tuple[Step, Step]:
    """A forward pass, and a forward and a backward pass."""

    def forward() -> Tensor:
        with torch.no_grad():
            return backend.compute(given, spec)[0]

    def both() -> None:
        output, _ = backend.compute(given, spec)
        sources = [given.query, given.key, given.value, *spec.score.parameters()]
        torch.autograd.grad(output, sources, torch.ones_like(output))

    return forward, both


def bound(device: str) -> float:
    """Special functions that the GPU computes in a second."""
    if device != "cuda":
        return float("nan")
    properties = torch.cuda.get_device_properties(0)
    return 16 * properties.multi_processor_count * 1000 * properties.clock_rate


def show_times(
    shape: tuple[int, ...], device: str, dtype: torch.dtype, repeat: int
) -> dict[str, float]:
    """Print the times of the kernel and of the eager formula; returns the ratios by name."""
    batch, heads, length, size = shape
    spec = AttentionSpec(Additive(heads, size).to(device, dtype), Softmax())
    given = inputs(shape, device, dtype)
    assert triton_computes(given, spec), "no Triton here"
    calls: dict[str, Step] = {}
    for name, backend in (("kernel", FUSED), ("eager", EAGER)):
        calls[f"{name}, forward"], calls[f"{name}, both"] = steps(backend, given, spec)
    interleaved(calls, 3, device)  # compiles
    times: dict[str, Timing] = interleaved(calls, repeat, device)
    for name, (median, low, high) in times.items():
        print(f"{name:16} {1e3 * median:9.3f} ms ({1e3 * low:.3f} to {1e3 * high:.3f})")
    figures = {
        f"{part}_times_eager": times[f"eager, {part}"].median / times[f"kernel, {part}"].median
        for part in ("forward", "both")
    }
    for name, ratio in figures.items():
        print(f"{name}: {ratio:.1f}")
    rate = batch * heads * length**2 * size / times["kernel, forward"].median
    figures["share_of_bound"] = rate / bound(device)
    print(f"forward: {rate / 1e12:.3g} T terms/s, {figures['share_of_bound']:.0%} of the bound")
    return figures


def show_memory(lengths: list[int], size: int, device: str, dtype: torch.dtype) -> dict[int, int]:
    """Print the peak memory of a forward and a backward pass; returns bytes by length."""
    peaks: dict[int, int] = {}
    spec = AttentionSpec(Additive(1, size).to(device, dtype), Softmax())
    for length in lengths:
        _, both = steps(FUSED, inputs((1, 1, length, size), device, dtype), spec)
        both()
        peak = peak_memory(both, device)
        peaks[length] = peak
        print(f"length {length:6}: {peak / 1e6:8.2f} MB, {peak / length:.0f} bytes a position")
    return peaks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--shape", type=int, nargs=4, default=[8, 8, 1024, 64], metavar="N")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1 << n for n in range(10, 17)])
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    figures: dict[str, Any] = {}
    for dtype in (torch.bfloat16, torch.float32):
        print(f"\n{dtype}, batch, heads, length, head size {tuple(chosen.shape)}, no mask")
        figures[str(dtype)] = show_times(tuple(chosen.shape), chosen.device, dtype, chosen.repeat)
        peaks = show_memory(chosen.lengths, chosen.shape[3], chosen.device, dtype)
        figures[str(dtype)]["peak_bytes"] = peaks
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
