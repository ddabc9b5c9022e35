"""Linear attention and Performer against their papers, by loops in float64 NumPy."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from attention_lab.attention import (
    AttentionInputs,
    Cache,
    Causal,
    Dense,
    EluPlusOne,
    FeatureMap,
    KernelAttention,
    Padding,
    PositiveRandomFeatures,
)
from tests.attention.loops import (
    H_KV,
    MASKS,
    SHAPES,
    Array,
    E,
    H,
    IsVisible,
    by_loops,
    check,
    masked,
    softmax,
    triple,
)

T = 10  # positions of long queries and keys


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
    layer = KernelAttention(
        H * E, feature_map=EluPlusOne, num_heads=H, num_kv_heads=H_KV, chunk_size=chunk
    )
    tensors = triple(*shape)
    mask, is_visible = masked(name, shape[1])
    for start in (0, 2):
        expected = by_loops(katharopoulos, tensors, is_visible, start)
        check(layer, tensors, mask, expected, start)


def test_linear_attention_under_any_tensor() -> None:
    visible = torch.rand(2, H, 5, 6) < 0.5
    layer = KernelAttention(H * E, feature_map=EluPlusOne, num_heads=H, num_kv_heads=H_KV)
    tensors = triple(5, 6)
    expected = by_loops(katharopoulos, tensors, lambda b, h, i, j: bool(visible[b, h, i, j]))
    check(layer, tensors, Dense(visible), expected)


def favor(x: Array, directions: Array) -> Array:
    """Choromanski et al. 2021, lemma 1: exp(ω·x − ‖x‖²/2) / √m, of x / E^¼ for the softmax's √E."""
    x = x / len(x) ** 0.25
    return np.exp(directions @ x - x @ x / 2) / math.sqrt(len(directions))


def features(phi: FeatureMap, x: Tensor, is_query: bool) -> Tensor:
    """φ(x), with its scale."""
    values, log_scale = phi(x, is_query)
    return values if log_scale is None else values * log_scale.exp()


def test_random_features() -> None:
    """Those of keys are lemma 1's; those of a query are, up to a positive number of its own."""
    phi = PositiveRandomFeatures(E, num_features=10).double()
    directions = phi.directions.numpy()
    x = torch.randn(2, 3, 5, E).double()
    of_keys, of_queries = (features(phi, x, is_query).numpy() for is_query in (False, True))
    for index in np.ndindex(2, 3, 5):
        expected = favor(x[index].numpy(), directions)
        assert of_keys[index] == pytest.approx(expected, rel=1e-6)
        ratio = of_queries[index] / expected
        assert ratio == pytest.approx(np.full(10, ratio[0]), rel=1e-6)
        assert ratio[0] > 0


def test_random_directions_are_orthogonal_gaussians() -> None:
    """Orthogonal within blocks of E (§2.4); |ω|² of mean E, as of normal vectors, and varying."""
    directions = PositiveRandomFeatures(E, num_features=600 * E + 1).directions
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
        phi = PositiveRandomFeatures(E, num_features=32).double()
        estimates.append((features(phi, q, False) @ features(phi, k, False).mT).flatten().numpy())
    expected = np.exp((q @ k.mT).flatten().numpy() / math.sqrt(E))
    assert np.mean(estimates, axis=0) == pytest.approx(expected, rel=0.05)


FOUR = pytest.mark.parametrize("name", ["none", "causal", "causal-padding", "mixed"])


@FOUR
def test_performer_weighs_by_its_features(name: str) -> None:
    few = partial(PositiveRandomFeatures, num_features=8)
    layer = KernelAttention(H * E, feature_map=few, num_heads=H, num_kv_heads=H_KV).double()
    directions = layer.feature_map.get_buffer("directions").numpy()

    def weigh(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        products = np.array([favor(q, directions) @ favor(k, directions) for k in keys])
        return products / products.sum()

    tensors = triple(6, 6)
    mask, is_visible = masked(name, 6)
    check(layer, tensors, mask, by_loops(weigh, tensors, is_visible), tolerance=1e-6)


def performer_by_logarithms(
    layer: KernelAttention, tensors: tuple[Tensor, Tensor, Tensor], is_visible: IsVisible
) -> Tensor:
    """Lemma 1 in logarithms, which neither under- nor overflow, in float64."""
    query, key, value = (x.double() for x in tensors)
    key, value = (x.repeat_interleave(H // H_KV, dim=1) for x in (key, value))
    directions = layer.feature_map.get_buffer("directions").double()
    q, k = query / E**0.25, key / E**0.25
    exponents = (q @ directions.T).unsqueeze(3) + (k @ directions.T).unsqueeze(2)
    logs = exponents.logsumexp(-1) - k.square().sum(-1).unsqueeze(2) / 2
    keys = range(key.shape[2])
    visible = [[[is_visible(b, 0, i, j) for j in keys] for i in range(T)] for b in range(2)]
    hidden = ~torch.tensor(visible).unsqueeze(1)
    return logs.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num() @ value


def long_triple(norm: float, which: str) -> tuple[Tensor, Tensor, Tensor]:
    """Queries or keys of about one direction and this norm (times E^¼), some of them shorter.

    Short are also those that the padding of ``masked`` hides.
    """
    query, key, value = triple(T, T)
    shares = [[1, 1, 1, 0.5, 1, 0.5, 1, 1, 1, 0.001], [0.001, 1, 1, 1, 0.5, 1, 0.5, 1, 1, 1]]
    norms = norm * torch.tensor(shares, dtype=torch.float64).view(2, 1, T, 1)
    direction = nn.functional.normalize(torch.randn(E).double(), dim=0)

    def lengthened(x: Tensor) -> Tensor:
        across = x - (x @ direction).unsqueeze(-1) * direction
        return norms * E**0.25 * direction + across

    return (query, lengthened(key), value) if which == "keys" else (lengthened(query), key, value)


#: Ten times the norms (times E^¼) of which e^(−|x|²/2) is 0, and what is lost by rounding |x|²/2.
LONG = pytest.mark.parametrize(
    ("dtype", "norm", "tolerance"), [(torch.float32, 130, 1e-2), (torch.float64, 390, 1e-8)]
)


@LONG
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("which", ["keys", "queries"])
@pytest.mark.parametrize("keys", [T, 6])
def test_performer_has_no_largest_norm(
    dtype: torch.dtype, norm: float, tolerance: float, name: str, which: str, keys: int
) -> None:
    """In full, chunk by chunk and with weights: outputs, and the gradients of all three."""
    few = partial(PositiveRandomFeatures, num_features=8)
    layer = KernelAttention(
        H * E, feature_map=few, num_heads=H, num_kv_heads=H_KV, chunk_size=4
    ).to(dtype)
    query, key, value = long_triple(norm, which)
    inputs = query, key[:, :, :keys], value[:, :, :keys]
    query, key, value = inputs = tuple(x.to(dtype).requires_grad_() for x in inputs)
    mask, is_visible = masked(name, keys)
    expected = performer_by_logarithms(layer, (query, key, value), is_visible)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * direction).sum(), inputs)
    for need_weights in (False, True):
        output, _ = layer.attend(AttentionInputs(*inputs, mask, need_weights))
        gradients = torch.autograd.grad((output * direction).sum(), inputs)
        assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
        for actual, right in zip(gradients, wanted, strict=True):
            error = (actual - right).abs().max() / (1 + right.abs().max())
            assert error < 2 * tolerance


@pytest.mark.parametrize("name", ["none", "causal"])
def test_a_key_whose_square_overflows_weighs_nothing(name: str) -> None:
    layer = KernelAttention(
        H * E, feature_map=PositiveRandomFeatures, num_heads=H, num_kv_heads=H_KV
    )
    query, key, value = (x.float() for x in triple(T, T))
    mask, is_visible = masked(name, T)
    others = performer_by_logarithms(
        layer, (query, key, value), lambda b, h, i, j: j != 3 and is_visible(b, h, i, j)
    )
    key[:, :, 3] = 1e25
    inputs = query.requires_grad_(), key.requires_grad_(), value.requires_grad_()
    output, _ = layer.attend(AttentionInputs(*inputs, mask, False))
    assert_close(output.double(), others, rtol=1e-3, atol=1e-3)
    assert all(x.isfinite().all() for x in torch.autograd.grad(output.sum(), inputs))


@LONG
def test_performer_remembers_long_keys(dtype: torch.dtype, norm: float, tolerance: float) -> None:
    """Step by step, past shorter keys and padding; each query and key as in one whole pass."""
    few = partial(PositiveRandomFeatures, num_features=8)
    layer = KernelAttention(
        H * E, feature_map=few, num_heads=H, num_kv_heads=H_KV, chunk_size=4
    ).to(dtype)
    query, key, value = (x.to(dtype) for x in long_triple(norm, "keys"))
    mask, is_visible = masked("causal-padding", T)
    expected = performer_by_logarithms(layer, (query, key, value), is_visible)
    valid = torch.ones(2, T, dtype=torch.bool)
    valid[0, -1] = valid[1, 0] = valid[1, 1] = False
    for steps in ((1,) * T, (3, 1, 6)):
        cache, outputs = Cache(), []
        for parts in zip(*(x.split(steps, dim=2) for x in (query, key, value)), strict=True):
            seen = cache.length + parts[0].shape[2]
            mask = Causal() & Padding(valid[:, :seen])
            outputs.append(layer.attend_next(AttentionInputs(*parts, mask), cache)[0])
            cache.length = seen
        actual = torch.cat(outputs, dim=2).double()
        assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["none", "causal-padding"])
def test_gradients_of_long_keys(name: str) -> None:
    few = partial(PositiveRandomFeatures, num_features=8)
    layer = KernelAttention(
        H * E, feature_map=few, num_heads=H, num_kv_heads=H_KV, chunk_size=4
    ).double()
    inputs = tuple(x.requires_grad_() for x in long_triple(50, "keys"))
    mask, _ = masked(name, T)
    gradcheck(
        lambda *x: layer.attend(AttentionInputs(*x, mask, False))[0],
        inputs,
        eps=1e-7,
        fast_mode=True,
    )


@FOUR
def test_performer_is_near_softmax(name: str) -> None:
    """Theorem 3: exact in the limit of many features, the sooner the smaller q and k are."""

    def vaswani(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        return softmax([q @ k / math.sqrt(E) for k in keys])

    query, key, value = triple(6, 6)
    tensors = 0.6 * query, 0.6 * key, value
    mask, is_visible = masked(name, 6)
    many = partial(PositiveRandomFeatures, num_features=20000)
    layer = KernelAttention(H * E, feature_map=many, num_heads=H, num_kv_heads=H_KV).double()
    check(layer, tensors, mask, by_loops(vaswani, tensors, is_visible), tolerance=0.1)
