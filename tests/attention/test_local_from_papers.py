"""Local attention against its paper, by loops in float64 NumPy."""

import math

import numpy as np
import pytest
from scipy.special import expit

from attention_lab.attention import LocalAttention, ScaledDotProduct
from tests.attention.loops import (
    H_KV,
    MASKS,
    SHAPES,
    Array,
    E,
    H,
    by_loops,
    check,
    masked,
    softmax,
    triple,
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("radius", [1, 3, 10])
def test_local(shape: tuple[int, int], name: str, radius: int) -> None:
    """Luong et al. 2015, eq. 9–10: align(s) · exp(−(s − p)² / 2σ²), p = n · σ(v·tanh(W q)).

    The align function of eq. 7 runs over the window of p only.
    """
    score = ScaledDotProduct
    layer = LocalAttention(
        H * E, score=score, num_heads=H, num_kv_heads=H_KV, radius=radius
    ).double()
    places = layer.position_map.detach().numpy(), layer.position_vector.detach().numpy()

    def luong(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        predicted = places[1][head].reshape(-1) @ np.tanh(places[0][head].T @ q)
        p = len(seen) * expit(predicted)
        window = [s for s in range(len(seen)) if abs(s - p) <= radius]
        align = softmax([q @ keys[s] / math.sqrt(E) for s in window])
        weights = np.zeros(len(seen))
        for s, share in zip(window, align, strict=True):
            weights[s] = share * math.exp(-((s - p) ** 2) / (2 * (radius / 2) ** 2))
        return weights

    tensors = triple(*shape)
    mask, is_visible = masked(name, shape[1])
    check(layer, tensors, mask, by_loops(luong, tensors, is_visible))
