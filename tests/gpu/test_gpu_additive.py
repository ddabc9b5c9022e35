"""The Triton kernels of additive attention on a GPU, against the eager formula on the CPU."""

from dataclasses import replace

import pytest
import torch

from tests.attention.additive_cases import Case, distance, with_dropout, with_gradients

LARGE = Case(queries=300, keys=333, batch=2, heads=4, head_dim=64, hidden_dim=33, device="cuda")


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_outputs_and_gradients_equal_the_formula_at_every_scale(scale: float) -> None:
    case = replace(LARGE, scale=scale)
    assert distance(case, with_gradients(case)) < 1e-5


@pytest.mark.parametrize("mask", ["padding", "causal", "window", "centred", "composed"])
@pytest.mark.parametrize("head_dim", [20, 64, 128])
def test_masks_and_head_sizes(mask: str, head_dim: int) -> None:
    case = replace(LARGE, mask=mask, head_dim=head_dim, start=3)
    assert distance(case, with_gradients(case)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    case = replace(LARGE, dtype=dtype, mask="causal", scale=0.3)
    assert distance(case, with_gradients(case)) < 4 * torch.finfo(dtype).eps


def test_all_passes_drop_the_same_weights() -> None:
    for ours, right in zip(with_dropout(device="cuda"), with_dropout(exact=True), strict=True):
        assert (ours - right).norm() < 1e-5 * right.norm()


def test_gradients_are_the_same_each_time() -> None:
    first, second = (with_gradients(LARGE) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_memory_is_linear_in_the_length() -> None:
    peaks = []
    for length in (4096, 8192):
        case = replace(LARGE, queries=length, keys=length, batch=1, heads=1, kv_heads=1)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with_gradients(case)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 2.2 * peaks[0]
