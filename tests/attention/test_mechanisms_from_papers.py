"""Mechanisms against their papers, by loops over single queries and keys in float64 NumPy.

And step-by-step decoding against the whole pass, with the cache's bytes counted by hand.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, logsumexp
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from attention_lab.attention import (
    Additive,
    ALiBi,
    AttentionLayer,
    Cache,
    Causal,
    Dense,
    DifferentialAttention,
    EluPlusOne,
    FeatureMap,
    General,
    KernelAttention,
    Learned,
    LinformerAttention,
    LocalAttention,
    Location,
    Mask,
    Padding,
    Positions,
    PositiveRandomFeatures,
    PrefixLM,
    Rotary,
    ScaledDotProduct,
    ScoredAttention,
    Shaw,
    Sigmoid,
    Sinusoidal,
    SlidingWindow,
    Softmax,
    Sparsemax,
    T5Bias,
    TopK,
    observe,
)

Array = NDArray[np.float64]
Sees = Callable[[int, int, int], bool]  # (batch, query, key) → may look
H, H_KV, E = 4, 2, 6  # sizes of every example, with B = 2 and E_v = E
T, WIDE = 10, 8  # positions, and the bytes of a float64
SHAPES = pytest.mark.parametrize("shape", [(7, 7), (4, 9), (9, 4), (1, 5)])
MASKS = ["none", "causal", "padding", "causal-padding", "padding-causal", "window", "mixed"]


def masked(name: str, keys: int) -> tuple[Mask | None, Sees]:
    """A mask and what it should let one see; the padding hides sequence 1's first two keys."""
    valid = torch.ones(2, keys, dtype=torch.bool)
    valid[0, -1] = False
    valid[1, :2] = False
    real = valid.tolist()
    cases: dict[str, tuple[Mask | None, Sees]] = {
        "none": (None, lambda b, i, j: True),
        "causal": (Causal(), lambda b, i, j: j <= i),
        "padding": (Padding(valid), lambda b, i, j: real[b][j]),
        "causal-padding": (Causal() & Padding(valid), lambda b, i, j: j <= i and real[b][j]),
        "padding-causal": (Padding(valid) & Causal(), lambda b, i, j: j <= i and real[b][j]),
        "window": (SlidingWindow(3), lambda b, i, j: i - 3 < j <= i),
        "mixed": (
            PrefixLM(2) & Padding(valid),
            lambda b, i, j: (j < 2 or j <= i) and real[b][j],
        ),
    }
    return cases[name]


def triple(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [(2, H, queries, E), (2, H_KV, keys, E), (2, H_KV, keys, E)]
    query, key, value = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return query, key, value


def softmax(logits: list[float]) -> Array:
    return np.exp(np.array(logits) - logsumexp(logits)) if logits else np.zeros(0)


def by_loops(
    weigh: Callable[[int, Array, Array, list[int]], Array],
    tensors: tuple[Tensor, Tensor, Tensor],
    sees: Sees,
    start: int = 0,
) -> tuple[Tensor, Tensor]:
    """Output and weights, where ``weigh(head, q, keys, visible places)`` makes one row's weights.

    Query head h belongs to key head ⌊h / (H / H_kv)⌋ (Ainslie et al. 2023, fig. 2).
    """
    query, key, value = (x.numpy() for x in tensors)
    weights = np.zeros((*query.shape[:3], key.shape[2]))
    output = np.zeros((*query.shape[:3], value.shape[3]))
    for b, h, i in np.ndindex(*query.shape[:3]):
        g = h // (query.shape[1] // key.shape[1])
        seen = [j for j in range(key.shape[2]) if sees(b, start + i, j)]
        weights[b, h, i, seen] = weigh(h, query[b, h, i], key[b, g, seen], seen)
        for j in seen:
            output[b, h, i] += weights[b, h, i, j] * value[b, g, j]
    return torch.from_numpy(output), torch.from_numpy(weights)


def check(
    layer: AttentionLayer,
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Mask | None,
    expected: tuple[Tensor, Tensor],
    start: int = 0,
    tolerance: float = 1e-11,
) -> None:
    """With and without weights, which may be computed in different ways."""
    with torch.no_grad():
        alone, nothing = layer.attend(*tensors, mask, False, start)
        output, weights = layer.attend(*tensors, mask, True, start)
    assert nothing is None
    for actual, wanted in [(alone, expected[0]), (output, expected[0]), (weights, expected[1])]:
        assert_close(actual, wanted, rtol=0, atol=tolerance)


# Kernels


def elu_plus_one(x: Array) -> Array:
    """Katharopoulos et al. 2020, eq. 7."""
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def katharopoulos(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
    """Eq. 4: φ(q)·φ(k_j) over their sum."""
    products = np.array([elu_plus_one(q) @ elu_plus_one(k) for k in keys])
    return products / products.sum()


@SHAPES
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
    for h in range(H):
        sees = partial(lambda head, b, i, j: bool(visible[b, head, i, j]), h)
        wanted = by_loops(katharopoulos, tensors, sees)
        output, weights = layer.attend(*tensors, Dense(visible), True)
        assert weights is not None
        assert_close(output[:, h], wanted[0][:, h])
        assert_close(weights[:, h], wanted[1][:, h])


def favor(x: Array, directions: Array) -> Array:
    """Choromanski et al. 2021, lemma 1: exp(ω·x − ‖x‖²/2) / √m, of x / E^¼ for the softmax's √E."""
    x = x / len(x) ** 0.25
    return np.exp(directions @ x - x @ x / 2) / math.sqrt(len(directions))


def features(phi: FeatureMap, x: Tensor, is_query: bool) -> Tensor:
    """φ(x), with its scale."""
    values, log_scale = phi(x, is_query)
    return values if log_scale is None else values * log_scale.exp()


def test_random_features() -> None:
    """Those of keys as in lemma 1, up to one constant; those of a query up to one of its own."""
    phi = PositiveRandomFeatures(E, features=10).double()
    directions = phi.directions.numpy()
    x = torch.randn(2, 3, 5, E).double()
    ratios = []
    for index in np.ndindex(2, 3, 5):
        expected = favor(x[index].numpy(), directions)
        for is_query in (True, False):
            ratio = features(phi, x, is_query)[index].numpy() / expected
            assert ratio == pytest.approx(np.full(10, ratio[0]), rel=1e-6)
            assert ratio[0] > 0
        ratios.append(ratio[0])
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-6)


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
    """Averaged over many draws, φ(q)·φ(k) is exp(q·k/√E) (lemma 1), up to the keys' constant."""
    q, k = 0.7 * torch.randn(1, 1, 1, E).double(), 0.7 * torch.randn(1, 1, 3, E).double()
    estimates = []
    for _ in range(400):
        phi = PositiveRandomFeatures(E, features=32).double()
        phi_q, phi_k = features(phi, q, False), features(phi, k, False)
        constant = favor(k[0, 0, 0].numpy(), phi.directions.numpy()) / phi_k[0, 0, 0].numpy()
        estimates.append((phi_q @ phi_k.mT).flatten().numpy() * constant[0] ** 2)
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


def performer_by_logarithms(
    layer: KernelAttention, tensors: tuple[Tensor, Tensor, Tensor], sees: Sees
) -> Tensor:
    """Lemma 1 in logarithms, which neither under- nor overflow, in float64."""
    query, key, value = (x.double() for x in tensors)
    key, value = (x.repeat_interleave(H // H_KV, dim=1) for x in (key, value))
    directions = layer.feature_map.get_buffer("directions").double()
    q, k = query / E**0.25, key / E**0.25
    exponents = (q @ directions.T).unsqueeze(3) + (k @ directions.T).unsqueeze(2)
    logs = exponents.logsumexp(-1) - k.square().sum(-1).unsqueeze(2) / 2
    keys = range(key.shape[2])
    visible = [[[sees(b, i, j) for j in keys] for i in range(T)] for b in range(2)]
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
    few = partial(PositiveRandomFeatures, features=8)
    layer = KernelAttention(H * E, feature_map=few, heads=H, kv_heads=H_KV, chunk=4).to(dtype)
    query, key, value = long_triple(norm, which)
    inputs = query, key[:, :, :keys], value[:, :, :keys]
    query, key, value = inputs = tuple(x.to(dtype).requires_grad_() for x in inputs)
    mask, sees = masked(name, keys)
    expected = performer_by_logarithms(layer, (query, key, value), sees)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * direction).sum(), inputs)
    for need_weights in (False, True):
        output, _ = layer.attend(*inputs, mask, need_weights)
        gradients = torch.autograd.grad((output * direction).sum(), inputs)
        assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
        for actual, right in zip(gradients, wanted, strict=True):
            error = (actual - right).abs().max() / (1 + right.abs().max())
            assert error < 2 * tolerance


@pytest.mark.parametrize("name", ["none", "causal"])
def test_a_key_whose_square_overflows_weighs_nothing(name: str) -> None:
    layer = KernelAttention(H * E, feature_map=PositiveRandomFeatures, heads=H, kv_heads=H_KV)
    query, key, value = (x.float() for x in triple(T, T))
    mask, sees = masked(name, T)
    others = performer_by_logarithms(
        layer, (query, key, value), lambda b, i, j: j != 3 and sees(b, i, j)
    )
    key[:, :, 3] = 1e25
    inputs = query.requires_grad_(), key.requires_grad_(), value.requires_grad_()
    output, _ = layer.attend(*inputs, mask, False)
    assert_close(output.double(), others, rtol=1e-3, atol=1e-3)
    assert all(x.isfinite().all() for x in torch.autograd.grad(output.sum(), inputs))


@LONG
def test_performer_remembers_long_keys(dtype: torch.dtype, norm: float, tolerance: float) -> None:
    """Step by step, past shorter keys and padding; each query and key as in one whole pass."""
    few = partial(PositiveRandomFeatures, features=8)
    layer = KernelAttention(H * E, feature_map=few, heads=H, kv_heads=H_KV, chunk=4).to(dtype)
    query, key, value = (x.to(dtype) for x in long_triple(norm, "keys"))
    mask, sees = masked("causal-padding", T)
    expected = performer_by_logarithms(layer, (query, key, value), sees)
    valid = torch.ones(2, T, dtype=torch.bool)
    valid[0, -1] = valid[1, 0] = valid[1, 1] = False
    for steps in ((1,) * T, (3, 1, 6)):
        cache, outputs = Cache(), []
        for parts in zip(*(x.split(steps, dim=2) for x in (query, key, value)), strict=True):
            seen = cache.length + parts[0].shape[2]
            mask = Causal() & Padding(valid[:, :seen])
            outputs.append(layer.attend_next(*parts, mask, False, cache)[0])
            cache.length = seen
        actual = torch.cat(outputs, dim=2).double()
        assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["none", "causal-padding"])
def test_gradients_of_long_keys(name: str) -> None:
    few = partial(PositiveRandomFeatures, features=8)
    layer = KernelAttention(H * E, feature_map=few, heads=H, kv_heads=H_KV, chunk=4).double()
    inputs = tuple(x.requires_grad_() for x in long_triple(50, "keys"))
    mask, _ = masked(name, T)
    gradcheck(lambda *x: layer.attend(*x, mask, False)[0], inputs, eps=1e-7, fast_mode=True)


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


# Linformer, differential, local


@SHAPES
@pytest.mark.parametrize("name", ["none", "padding"])
def test_linformer(shape: tuple[int, int], name: str) -> None:
    """Wang et al. 2020, eq. 7: softmax(q (E K)ᵀ / √d) (F V); padded keys and values are zero."""
    layer = LinformerAttention(H * E, heads=H, kv_heads=H_KV, slots=3, max_length=9).double()
    tensors = triple(*shape)
    mask, sees = masked(name, shape[1])
    query, key, value = (x.numpy() for x in tensors)
    maps = layer.key_slots.detach().numpy(), layer.value_slots.detach().numpy()
    expected = np.zeros_like(query)
    for b, h, i in np.ndindex(2, H, shape[0]):
        keys, values = np.zeros((3, E)), np.zeros((3, E))
        for slot, j in np.ndindex(3, shape[1]):
            if sees(b, i, j):
                keys[slot] += maps[0][slot, j] * key[b, h // 2, j]
                values[slot] += maps[1][slot, j] * value[b, h // 2, j]
        row = softmax([float(query[b, h, i] @ k) / math.sqrt(E) for k in keys])
        expected[b, h, i] = row @ values
    output, weights = layer.attend(*tensors, mask, False)
    assert weights is None
    assert_close(output, torch.from_numpy(expected))


def test_linformer_refuses() -> None:
    layer = LinformerAttention(8, slots=2, max_length=4)
    with pytest.raises(ValueError, match="4"):
        layer(torch.randn(1, 5, 8))
    for mask in (Causal(), SlidingWindow(2)):
        with pytest.raises(ValueError, match="padding"):
            layer(torch.randn(1, 4, 8), mask=mask)
    with pytest.raises(ValueError, match="weights"):
        layer(torch.randn(1, 4, 8), need_weights=True)


@SHAPES
@pytest.mark.parametrize("name", MASKS)
def test_differential(shape: tuple[int, int], name: str) -> None:
    """Ye et al. 2025, eq. 1–3."""
    layer = DifferentialAttention(H * E, heads=H, kv_heads=H_KV, initial_lambda=0.3).double()
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
    mask, sees = masked(name, shape[1])
    output, _ = by_loops(ye, tensors, sees)
    gains = layer.norm.weight.detach().numpy()
    for index in np.ndindex(2, H, shape[0]):
        o = output[index].numpy()
        o = o / math.sqrt((o**2).mean() + 1e-5) * gains * (1 - 0.3)
        output[index] = torch.from_numpy(o)
    actual, none = layer.attend(*tensors, mask, False)
    assert none is None
    assert_close(actual, output, rtol=0, atol=1e-11)


@SHAPES
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("radius", [1, 3, 10])
def test_local(shape: tuple[int, int], name: str, radius: int) -> None:
    """Luong et al. 2015, eq. 9–10: align(s) · exp(−(s − p)² / 2σ²), p = n · σ(v·tanh(W q)).

    The align function of eq. 7 runs over the window of p only.
    """
    score = ScaledDotProduct
    layer = LocalAttention(H * E, score=score, heads=H, kv_heads=H_KV, radius=radius).double()
    places = layer.place_map.detach().numpy(), layer.place_vector.detach().numpy()

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
    mask, sees = masked(name, shape[1])
    check(layer, tensors, mask, by_loops(luong, tensors, sees))


# Heads and the whole layer


@pytest.mark.parametrize("name", MASKS)
def test_talking_heads(name: str) -> None:
    """Shazeer et al. 2020, §3: L = J·P_l, softmax, U = W·P_w, with P_l and P_w (from, to)."""
    layer = ScoredAttention(
        H * E,
        score=ScaledDotProduct,
        normalizer=Softmax,
        heads=H,
        kv_heads=H_KV,
        talking_heads=True,
    ).double()
    assert layer.mixing is not None
    nn.init.normal_(layer.mixing.logits_map)
    nn.init.normal_(layer.mixing.weights_map)
    before, after = (m.detach().numpy() for m in layer.mixing.parameters())
    tensors = triple(5, 6)
    mask, sees = masked(name, 6)
    query, key, value = (x.numpy() for x in tensors)
    weights, output = np.zeros((2, H, 5, 6)), np.zeros((2, H, 5, E))
    for b, i in np.ndindex(2, 5):
        seen = [j for j in range(6) if sees(b, i, j)]
        logits = np.zeros((H, len(seen)))
        for h, (n, j) in [(h, pair) for h in range(H) for pair in enumerate(seen)]:
            logits[h, n] = query[b, h, i] @ key[b, h // 2, j] / math.sqrt(E)
        rows = [softmax(list(sum(before[h, g] * logits[h] for h in range(H)))) for g in range(H)]
        for g in range(H):
            weights[b, g, i, seen] = sum(after[h, g] * rows[h] for h in range(H))
            for j in seen:
                output[b, g, i] += weights[b, g, i, j] * value[b, g // 2, j]
    check(layer, tensors, mask, (torch.from_numpy(output), torch.from_numpy(weights)))


@pytest.mark.parametrize("positions", [Rotary, ALiBi, T5Bias, Shaw, Learned, Sinusoidal])
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("start", [0, 3])
def test_positions_join_the_logits(positions: type[Positions], backend: str, start: int) -> None:
    """softmax(q'·k'/√E + bias), of placed queries and keys; masks count from ``start``, too."""
    layer = ScoredAttention(
        H * E,
        score=ScaledDotProduct,
        normalizer=Softmax,
        positions=positions,
        heads=H,
        kv_heads=H_KV,
        backend=backend,
    ).double()
    query, key, value = triple(4, 7)
    mask, sees = masked("causal-padding", 7)
    with torch.no_grad():
        placed = layer.positions.place(query, key, start)
        bias = layer.positions.bias(query, start, 7)
    shift = np.zeros((2, H, 4, 7)) if bias is None else bias.expand(2, H, 4, 7).numpy()
    row = iter(np.ndindex(2, H, 4))  # the rows in the order of ``by_loops``

    def vaswani(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        added = shift[next(row)]
        return softmax([q @ k / math.sqrt(E) + added[j] for k, j in zip(keys, seen, strict=True)])

    expected = by_loops(vaswani, (*placed, value), sees, start)
    check(layer, (query, key, value), mask, expected, start)


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("latent_dim", [None, 5])
def test_latent_and_gate(gate: bool, latent_dim: int | None) -> None:
    """K = W_k c, V = W_v c of c = W_c m (DeepSeek-AI 2024, eq. 9–11); o ⊙ σ(W_g x) (Qiu et al.)."""
    layer = ScoredAttention(
        10,
        7,
        score=ScaledDotProduct,
        normalizer=Softmax,
        width=H * E,
        heads=H,
        kv_heads=H_KV,
        latent_dim=latent_dim,
        gate=gate,
        bias=True,
    ).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    query, memory = torch.randn(2, 4, 10).double(), torch.randn(2, 6, 7).double()
    mask, sees = masked("causal-padding", 6)

    def linear(name: str, x: Array) -> Array:
        if not isinstance(module := layer.get_submodule(name), nn.Linear):
            return x
        return x @ module.weight.detach().numpy().T + module.bias.detach().numpy()

    def split(x: Array, heads: int) -> Tensor:
        return torch.from_numpy(
            np.stack([x[:, :, h * E : (h + 1) * E] for h in range(heads)], axis=1)
        )

    source = linear("latent_projection", memory.numpy()) if latent_dim else memory.numpy()
    tensors = (
        split(linear("query_projection", query.numpy()), H),
        split(linear("key_projection", source), H_KV),
        split(linear("value_projection", source), H_KV),
    )
    heads, weights = by_loops(
        lambda h, q, keys, seen: softmax([q @ k / math.sqrt(E) for k in keys]), tensors, sees
    )
    merged = np.concatenate([heads[:, h].numpy() for h in range(H)], axis=-1)
    if gate:
        merged = merged * expit(linear("gate_projection", query.numpy()))
    actual = layer(query, memory, mask, need_weights=True)
    assert_close(actual.output, torch.from_numpy(linear("output_projection", merged)))
    assert_close(actual.weights, weights)
    assert_close(layer(query, memory, mask).output, actual.output)


def test_layer_is_torchs_multihead_attention() -> None:
    """With copied weights: outputs, weights and gradients, for self-attention."""
    torchs = nn.MultiheadAttention(12, 3, bias=False, batch_first=True).double()
    ours = ScoredAttention(12, score=ScaledDotProduct, normalizer=Softmax, heads=3).double()
    names = ["query_projection", "key_projection", "value_projection"]
    with torch.no_grad():
        for name, matrix in zip(names, torchs.in_proj_weight.chunk(3), strict=True):
            ours.get_submodule(name).get_parameter("weight").copy_(matrix)
        ours.output_projection.get_parameter("weight").copy_(torchs.out_proj.weight)
    x = torch.randn(2, 5, 12).double().requires_grad_()
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    theirs = torchs(x, x, x, attn_mask=future, average_attn_weights=False)
    output = ours(x, mask=Causal(), need_weights=True)
    assert_close(tuple(output), theirs)
    gradients = [torch.autograd.grad(o.square().sum(), x)[0] for o in (output[0], theirs[0])]
    assert_close(gradients[0], gradients[1])


# Step by step


def scored(**options: Any) -> Callable[[], AttentionLayer]:
    defaults: dict[str, Any] = {"score": ScaledDotProduct, "normalizer": Softmax}
    return lambda: ScoredAttention(H * E, heads=H, kv_heads=H_KV, **(defaults | options))


def kernel(
    feature_map: Callable[[int], FeatureMap], chunk: int = 3
) -> Callable[[], AttentionLayer]:
    return lambda: KernelAttention(
        H * E, feature_map=feature_map, heads=H, kv_heads=H_KV, chunk=chunk
    )


KEYS_AND_VALUES = 2 * H_KV * T * (E + E) * WIDE
LAYERS: dict[str, tuple[Callable[[], AttentionLayer], int]] = {
    "softmax": (scored(), KEYS_AND_VALUES),
    "eager": (scored(backend="eager"), KEYS_AND_VALUES),
    "rotary": (scored(positions=Rotary), KEYS_AND_VALUES),
    "alibi": (scored(positions=ALiBi), KEYS_AND_VALUES),
    "t5": (scored(positions=T5Bias), KEYS_AND_VALUES),
    "shaw": (scored(positions=Shaw), KEYS_AND_VALUES),
    "learned": (scored(positions=partial(Learned, max_length=T)), KEYS_AND_VALUES),
    "sinusoidal": (scored(positions=Sinusoidal), KEYS_AND_VALUES),
    "general-sparsemax": (scored(score=General, normalizer=Sparsemax), KEYS_AND_VALUES),
    "additive-sigmoid": (scored(score=Additive, normalizer=Sigmoid), KEYS_AND_VALUES),
    "top-k-talking": (
        scored(normalizer=partial(TopK, 2), talking_heads=True, gate=True),
        KEYS_AND_VALUES,
    ),
    "own-window": (scored(mask=SlidingWindow(3), positions=Rotary), KEYS_AND_VALUES),
    "latent": (scored(latent_dim=5, positions=Rotary), 2 * T * 5 * WIDE),
    "differential": (
        lambda: DifferentialAttention(H * E, heads=H, kv_heads=H_KV),
        KEYS_AND_VALUES,
    ),
    "local": (
        lambda: LocalAttention(H * E, score=General, heads=H, kv_heads=H_KV, radius=2),
        KEYS_AND_VALUES,
    ),
    # Katharopoulos et al. 2020, eq. 18–19: Σ φ(k) vᵀ and Σ φ(k), however long the past; and the
    # largest scale, where features have scales
    "linear": (kernel(EluPlusOne), 2 * H_KV * E * (E + 1) * WIDE),
    "performer": (
        kernel(partial(PositiveRandomFeatures, features=11)),
        2 * H_KV * (11 * (E + 1) + 1) * WIDE,
    ),
}


SUMS = ("linear", "performer")  # keep no keys, so step by step they have no weights
WITHOUT_WEIGHTS = (*SUMS, "differential")


def decoding_mask(name: str, length: int) -> Mask:
    """Over the first ``length`` positions."""
    valid = torch.ones(2, T, dtype=torch.bool)
    valid[0, 2:4] = False
    valid[1, 0] = False
    real = Padding(valid[:, :length])
    return {
        "causal": Causal(),
        "padding": Causal() & real,
        "window": Causal() & SlidingWindow(4) & real,
    }[name]


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        (name, mask)
        for name in LAYERS
        for mask in ("causal", "padding", "window")
        if mask != "window" or name not in SUMS
    ],
)
@pytest.mark.parametrize("chunks", [(1,) * T, (3, 1, 4, 2), (T,)])
def test_steps_are_the_whole(name: str, mask: str, chunks: tuple[int, ...]) -> None:
    layer = LAYERS[name][0]().double().eval()
    x = torch.randn(2, T, H * E).double()
    whole = layer(x, mask=decoding_mask(mask, T))
    if layer.capabilities.weights:
        explicit = layer(x, mask=decoding_mask(mask, T), need_weights=True)
        assert_close(explicit.output, whole.output)
    cache, seen = Cache(), 0
    for n in chunks:
        part = layer(x[:, seen : seen + n], mask=decoding_mask(mask, seen + n), cache=cache)
        seen += n
        assert_close(part.output, whole.output[:, seen - n : seen])
        assert cache.length == seen


@pytest.mark.parametrize("name", LAYERS)
def test_cache_size(name: str) -> None:
    """What key heads need, which grouped query heads share; sums as large after 4 as after 10."""
    layer, size = LAYERS[name][0]().double(), LAYERS[name][1]
    cache, x = Cache(), torch.randn(2, T, H * E).double()
    assert cache.size == 0
    layer(x[:, :4], mask=Causal(), cache=cache)
    assert cache.size == (size if name in SUMS else size * 4 // T)
    layer(x[:, 4:], mask=Causal(), cache=cache)
    assert cache.size == size


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in WITHOUT_WEIGHTS])
def test_steps_have_the_weights_of_the_whole(name: str) -> None:
    layer = LAYERS[name][0]().double().eval()
    x = torch.randn(2, T, H * E).double()
    whole = layer(x, mask=Causal(), need_weights=True).weights
    cache, seen = Cache(), 0
    for n in (2, 5, 3):
        part = layer(x[:, seen : seen + n], mask=Causal(), need_weights=True, cache=cache).weights
        seen += n
        assert_close(part, whole[:, :, seen - n : seen, :seen])


@pytest.mark.parametrize("name", SUMS)
def test_sums_cannot_forget(name: str) -> None:
    """A window would need the keys that the sums have swallowed: refused rather than wrong."""
    layer, x = LAYERS[name][0]().double(), torch.randn(2, T, H * E).double()
    cache = Cache()
    with pytest.raises(ValueError, match="causal mask"):
        layer(x[:, :3], mask=Causal() & SlidingWindow(2), cache=cache)


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_never_in_half_precision(name: str) -> None:
    """Sums stay in double or single precision, whatever the layer computes in."""
    layer = LAYERS[name][0]().bfloat16()
    cache = Cache()
    layer(torch.randn(2, 4, H * E).bfloat16(), mask=Causal(), cache=cache)
    assert all(tensor.dtype == torch.float32 for tensor in cache.tensors.values())


def test_observing_does_not_disturb_linear_attention_step_by_step() -> None:
    layer = KernelAttention(8, feature_map=EluPlusOne)
    with observe(layer) as calls:
        layer(torch.randn(1, 2, 8), mask=Causal(), cache=Cache())
    assert calls == {"": []}
    with pytest.raises(ValueError, match="KernelAttention has no weights to give"):
        layer(torch.randn(1, 2, 8), mask=Causal(), cache=Cache(), need_weights=True)


def test_a_step_that_fails_leaves_the_cache_as_it_was() -> None:
    layer = ScoredAttention(8, score=partial(Location, max_length=4), normalizer=Softmax)
    cache, steps = Cache(), torch.randn(1, 3, 8)
    layer(steps, mask=Causal(), cache=cache)
    kept = cache.size
    with pytest.raises(ValueError, match="6 keys are more than max_length=4"):
        layer(steps, mask=Causal(), cache=cache)
    assert (cache.length, cache.size) == (3, kept)


@pytest.mark.parametrize("mask", [None, Padding(torch.ones(1, 2, dtype=torch.bool))])
def test_a_cache_is_for_those_who_do_not_look_ahead(mask: Mask | None) -> None:
    layer = ScoredAttention(8, score=ScaledDotProduct, normalizer=Softmax)
    with pytest.raises(ValueError, match="cannot look ahead"):
        layer(torch.randn(1, 2, 8), mask=mask, cache=Cache())


def test_a_step_of_no_positions_changes_nothing() -> None:
    layer, cache = KernelAttention(8, feature_map=EluPlusOne), Cache()
    padding = [Padding(torch.ones(1, seen, dtype=torch.bool)) for seen in (3, 3)]
    layer(torch.randn(1, 3, 8), mask=Causal() & padding[0], cache=cache)
    output = layer(torch.randn(1, 0, 8), mask=Causal() & padding[1], cache=cache).output
    assert output.shape == (1, 0, 8)
    assert cache.length == 3
