"""Differential attention against its paper, by loops in float64 NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attention_lab.attention import AttentionInputs, DifferentialAttention
from tests.attention.loops import (
    H_KV,
    MASKS,
    SHAPES,
    Array,
    E,
    H,
    by_loops,
    masked,
    softmax,
    triple,
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MASKS)
def test_differential(shape: tuple[int, int], name: str) -> None:
    """Ye et al. 2025, eq. 1–3."""
    layer = DifferentialAttention(H * E, num_heads=H, num_kv_heads=H_KV, lambda_init=0.3).double()
    nn.init.normal_(layer.lambda_vectors)
    nn.init.normal_(layer.norm.weight)
    q1, k1, q2, k2 = layer.lambda_vectors.detach().numpy()
    factor = math.exp(q1 @ k1) - math.exp(q2 @ k2) + 0.3

    def ye(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        d = E // 2
        first = softmax([q[:d] @ k[:d] / math.sqrt(d) for k in keys])
        second = softmax([q[d:] @ k[d:] / math.sqrt(d) for k in keys])
        return first - factor * second

    tensors = triple(*shape)
    mask, is_visible = masked(name, shape[1])
    output, _ = by_loops(ye, tensors, is_visible)
    gains = layer.norm.weight.detach().numpy()
    for index in np.ndindex(2, H, shape[0]):
        o = output[index].numpy()
        o = o / math.sqrt((o**2).mean() + 1e-5) * gains * (1 - 0.3)
        output[index] = torch.from_numpy(o)
    actual, none = layer.attend(AttentionInputs(*tensors, mask, False))
    assert none is None
    assert_close(actual, output, rtol=0, atol=1e-11)
