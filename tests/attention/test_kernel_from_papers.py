"""Linear attention and Performer against their papers, by loops in float64 NumPy."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from attention_lab.attention import Dense, EluPlusOne, KernelAttention, PositiveRandomFeatures
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


def elu_plus_one(x: Array) -> Array:
    """Katharopoulos et al. 2020, eq. 7."""
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def katharopoulos(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
    """Eq. 4: φ(q)·φ(k_j) over their sum."""
    products = np.array([elu_plus_one(q) @ elu_plus_one(k) for k in keys])
    return products / products.sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_linear_attention(shape: tuple[int, int], name: str, chunk: int) -> None:
    layer = KernelAttention(H * E, feature_map=EluPlusOne, heads=H, kv_heads=H_KV, chunk=chunk)
    tensors = triple(*shape)
    mask, sees = masked(name, shape[1])
    for start in (0, 2):
        expected = by_loops(katharopoulos, tensors, sees, start)
        check(layer, tensors, mask, expected, start)


def test_linear_attention_under_any_tensor() -> None:
    visible = torch.rand(2, H, 5, 6) < 0.5
    layer = KernelAttention(H * E, feature_map=EluPlusOne, heads=H, kv_heads=H_KV)
    tensors = triple(5, 6)
    expected = by_loops(katharopoulos, tensors, lambda b, h, i, j: bool(visible[b, h, i, j]))
    check(layer, tensors, Dense(visible), expected)


def favor(x: Array, directions: Array) -> Array:
    """Choromanski et al. 2021, lemma 1: exp(ω·x − ‖x‖²/2) / √m, of x / E^¼ for the softmax's √E."""
    x = x / len(x) ** 0.25
    return np.exp(directions @ x - x @ x / 2) / math.sqrt(len(directions))


def test_random_features() -> None:
    """Those of keys are lemma 1's; those of a query are, up to a positive number of its own."""
    phi = PositiveRandomFeatures(E, features=10).double()
    directions = phi.directions.numpy()
    x = torch.randn(2, 3, 5, E).double()
    of_keys, of_queries = phi(x, False).numpy(), phi(x, True).numpy()
    for index in np.ndindex(2, 3, 5):
        expected = favor(x[index].numpy(), directions)
        assert of_keys[index] == pytest.approx(expected, rel=1e-6)
        ratio = of_queries[index] / expected
        assert ratio == pytest.approx(np.full(10, ratio[0]), rel=1e-6)
        assert ratio[0] > 0


def test_random_directions_are_orthogonal_gaussians() -> None:
    """Orthogonal within blocks of E (§2.4); |ω|² of mean E, as of normal vectors, and varying."""
    directions = PositiveRandomFeatures(E, features=600 * E + 1).directions
    assert directions.shape == (600 * E + 1, E)
    for block in directions[:-1].view(600, E, E):
        gram = block @ block.T
        assert_close(gram, torch.diag(gram.diag()), rtol=0, atol=1e-4)
    squared = directions.square().sum(1)
    assert squared.mean().item() == pytest.approx(E, rel=0.05)
    assert squared.var().item() == pytest.approx(2 * E, rel=0.15)
    assert_close(directions.mean(0), torch.zeros(E), rtol=0, atol=0.08)


def test_random_features_estimate_the_softmax_kernel() -> None:
    """Averaged over many draws, φ(q)·φ(k) is exp(q·k/√E) (lemma 1)."""
    q, k = 0.7 * torch.randn(1, 1, 1, E).double(), 0.7 * torch.randn(1, 1, 3, E).double()
    estimates = []
    for _ in range(400):
        phi = PositiveRandomFeatures(E, features=32).double()
        estimates.append((phi(q, False) @ phi(k, False).mT).flatten().numpy())
    expected = np.exp((q @ k.mT).flatten().numpy() / math.sqrt(E))
    assert np.mean(estimates, axis=0) == pytest.approx(expected, rel=0.05)


FOUR = pytest.mark.parametrize("name", ["none", "causal", "causal-padding", "mixed"])


@FOUR
def test_performer_weighs_by_its_features(name: str) -> None:
    few = partial(PositiveRandomFeatures, features=8)
    layer = KernelAttention(H * E, feature_map=few, heads=H, kv_heads=H_KV).double()
    directions = layer.feature_map.get_buffer("directions").numpy()

    def weigh(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        products = np.array([favor(q, directions) @ favor(k, directions) for k in keys])
        return products / products.sum()

    tensors = triple(6, 6)
    mask, sees = masked(name, 6)
    check(layer, tensors, mask, by_loops(weigh, tensors, sees), tolerance=1e-6)


@FOUR
def test_performer_is_near_softmax(name: str) -> None:
    """Theorem 3: exact in the limit of many features, the sooner the smaller q and k are."""

    def vaswani(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        return softmax([q @ k / math.sqrt(E) for k in keys])

    query, key, value = triple(6, 6)
    tensors = 0.6 * query, 0.6 * key, value
    mask, sees = masked(name, 6)
    many = partial(PositiveRandomFeatures, features=20000)
    layer = KernelAttention(H * E, feature_map=many, heads=H, kv_heads=H_KV).double()
    check(layer, tensors, mask, by_loops(vaswani, tensors, sees), tolerance=0.1)
