"""Half precision: logits that would overflow, positions far apart, weights that are asked for."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from attention_lab.attention import (
    ALiBi,
    AttentionInputs,
    Causal,
    DotProduct,
    ScaledDotProduct,
    ScoredAttention,
    Softmax,
    T5Bias,
    TemperedSoftmax,
    record_attention,
)

HALVES = [torch.float16, torch.bfloat16]


def make(backend: str, **options: Any) -> ScoredAttention:
    parts: dict[str, Any] = {"score": ScaledDotProduct, "normalizer": Softmax}
    return ScoredAttention(16, num_heads=2, backend=backend, **(parts | options)).eval()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_logits_do_not_overflow(backend: str, dtype: torch.dtype, need_weights: bool) -> None:
    """300 · 300 · 8 is more than half precision holds."""
    query, key, value = (torch.randn(1, 2, n, 8) for n in (4, 6, 6))
    inputs = [(300 * query).to(dtype), (300 * key).to(dtype), value.to(dtype)]
    layer = make(backend, score=DotProduct)
    output, weights = layer.to(dtype).attend(AttentionInputs(*inputs, Causal(), need_weights))
    exact, its_weights = layer.double().attend(
        AttentionInputs(*(x.double() for x in inputs), Causal(), True)
    )
    eps = torch.finfo(dtype).eps
    assert_close(output.double(), exact, rtol=0, atol=4 * eps)
    if weights is not None:
        assert weights.dtype == dtype
        assert_close(weights.double(), its_weights, rtol=0, atol=eps)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": ALiBi},
        {"positions": T5Bias},
        {"normalizer": partial(TemperedSoftmax, 0.5, learned=True)},
        {"talking_heads": True},
    ],
    ids=str,
)
def test_observing_changes_no_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    layer = make("auto", **options).to(dtype)
    x = (20 * torch.randn(2, 9, 16)).to(dtype)
    alone = layer(x, mask=Causal()).output
    with record_attention(layer) as calls:
        observed = layer(x, mask=Causal()).output
    assert alone.isfinite().all()
    assert torch.equal(observed, alone)
    assert torch.equal(layer(x, mask=Causal(), need_weights=True).output, alone)
    assert calls[""][0].isfinite().all()


def test_distances_are_not_rounded() -> None:
    """Beyond 256 there are odd numbers that bfloat16 does not have."""
    query = torch.zeros(1, 2, 1, 8, dtype=torch.bfloat16)
    bias = ALiBi(2, 8).bias(query, 300, 301)
    assert_close(bias[1, 0].double(), -(2.0**-8) * (300 - torch.arange(301)).double())
