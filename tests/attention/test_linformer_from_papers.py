"""Linformer against its paper, by loops in float64 NumPy."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from attention_lab.attention import AttentionInputs, Causal, Linformer, SlidingWindow
from tests.attention.loops import H_KV, SHAPES, E, H, masked, softmax, triple


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["none", "padding"])
def test_linformer(shape: tuple[int, int], name: str) -> None:
    """Wang et al. 2020, eq. 7: softmax(q (E K)ᵀ / √d) (F V); padded keys and values are zero."""
    layer = Linformer(
        H * E, num_heads=H, num_kv_heads=H_KV, projected_length=3, max_length=9
    ).double()
    tensors = triple(*shape)
    mask, is_visible = masked(name, shape[1])
    query, key, value = (x.numpy() for x in tensors)
    maps = layer.key_map.detach().numpy(), layer.value_map.detach().numpy()
    expected = np.zeros_like(query)
    for b, h, i in np.ndindex(2, H, shape[0]):
        keys, values = np.zeros((3, E)), np.zeros((3, E))
        for slot, j in np.ndindex(3, shape[1]):
            if is_visible(b, 0, i, j):
                keys[slot] += maps[0][slot, j] * key[b, h // 2, j]
                values[slot] += maps[1][slot, j] * value[b, h // 2, j]
        row = softmax([float(query[b, h, i] @ k) / math.sqrt(E) for k in keys])
        expected[b, h, i] = row @ values
    output, weights = layer.attend(AttentionInputs(*tensors, mask, False))
    assert weights is None
    assert_close(output, torch.from_numpy(expected))


def test_linformer_refuses() -> None:
    layer = Linformer(8, projected_length=2, max_length=4)
    with pytest.raises(ValueError, match="4"):
        layer(torch.randn(1, 5, 8))
    for mask in (Causal(), SlidingWindow(2)):
        with pytest.raises(ValueError, match="padding"):
            layer(torch.randn(1, 4, 8), mask=mask)
    with pytest.raises(ValueError, match="weights"):
        layer(torch.randn(1, 4, 8), need_weights=True)
