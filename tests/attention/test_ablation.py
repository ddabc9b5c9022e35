"""Switching off single heads."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from attention_lab.attention import (
    KernelAttention,
    PositiveRandomFeatures,
    ScaledDotProduct,
    ScoredAttention,
    Softmax,
    head_ablated,
)


def attention(**options: Any) -> ScoredAttention:
    return ScoredAttention(16, score=ScaledDotProduct, normalizer=Softmax, **options).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 4},
        {"num_heads": 4, "num_kv_heads": 2},
        {"num_heads": 4, "gate": True, "head_dim": 3, "bias": True},
        {"num_heads": 4, "talking_heads": True},
        {"num_heads": 4, "backend": "eager", "latent_dim": 5},
    ],
)
@torch.no_grad()
def test_a_head_is_off_as_if_its_part_of_the_output_projection_were_zero(
    options: dict[str, Any],
) -> None:
    layer, x = attention(**options), torch.randn(2, 5, 16)
    before = layer(x).output
    with head_ablated(layer, 2):
        ablated = layer(x).output
    assert_close(layer(x).output, before, rtol=0, atol=0)
    size = layer.head_dim
    layer.output_projection.weight[:, 2 * size : 3 * size] = 0
    assert_close(ablated, layer(x).output)
    assert not torch.allclose(ablated, before)


@torch.no_grad()
def test_without_an_output_projection_the_output_of_the_head_is_zero() -> None:
    layer, x = attention(num_heads=4, projections="none"), torch.randn(2, 5, 16)
    before = layer(x).output
    with head_ablated(layer, 0):
        output = layer(x).output
    assert not output[..., :4].any()
    assert_close(output[..., 4:], before[..., 4:])


@torch.no_grad()
def test_a_mechanism_without_weights_has_heads_too() -> None:
    layer = KernelAttention(16, num_heads=2, feature_map=PositiveRandomFeatures).eval()
    x = torch.randn(2, 5, 16)
    with head_ablated(layer, 0), head_ablated(layer, 1):
        assert not layer(x).output.any()


def test_gradients_flow_past_a_head_that_is_off() -> None:
    layer, x = attention(num_heads=1), torch.randn(2, 1, 16)
    with head_ablated(layer, 0):
        output = layer(x).output
    output.sum().backward()
    assert not output.any()


def test_a_head_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(IndexError, match="head 4 of 4"), head_ablated(attention(num_heads=4), 4):
        pass
