"""Scores, normalizers, positions and masks against their papers.

Expected values are computed here from the papers' formulas, in float64 NumPy and loops over single
queries and keys; the ``entmax`` package and SciPy's optimizer are further witnesses.
"""

import math
from collections.abc import Callable

import entmax  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize
from scipy.special import expit, logsumexp
from torch import Tensor, nn
from torch.testing import assert_close

from attention_lab.attention import (
    L2,
    ALiBi,
    Biaffine,
    BlockSparse,
    Causal,
    Concat,
    Cosine,
    Dense,
    Dilated,
    Documents,
    Entmax15,
    Everything,
    GlobalTokens,
    Learned,
    Location,
    Mask,
    NoPositions,
    Normalizer,
    Padding,
    Positions,
    PrefixLM,
    ReLU,
    Rotary,
    Score,
    Shaw,
    Sigmoid,
    Sinusoidal,
    SlidingWindow,
    Softmax,
    SoftmaxPlusOne,
    Sparsemax,
    T5Bias,
    TemperedSoftmax,
    TopK,
)

CPU = torch.device("cpu")
Array = NDArray[np.float64]
Parameters = dict[str, Array]
Compare = Callable[[Parameters, int, Array, Array, int], float]  # (…, head, q, k, j) → logit
Normalize = Callable[[Array], Array]  # visible logits → weights
quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


# Scores


def luong_concat(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Luong et al. 2015, eq. 8: v_aᵀ tanh(W_a [h_t; h̄_s]), W_a of shape A × 2E."""
    matrix = np.concatenate([p["query_weight"][head], p["key_weight"][head]]).T
    return float(p["vector"][head] @ np.tanh(matrix @ np.concatenate([q, k])))


def dozat(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Dozat & Manning 2017, eq. 6 (theirs: H U h + H u): qᵀ W k + uᵀ k."""
    u = p["bias"][head].reshape(-1)
    return float(q @ p["weight"][head] @ k + u @ k)


def henry(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Henry et al. 2020, eq. 3–4: g · q̂ · k̂."""
    return float(p["gain"][head].item() * (q @ k) / np.sqrt((q @ q) * (k @ k)))


def kim(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Kim et al. 2021, eq. 9: −‖q − k‖² / √D."""
    return float(-((q - k) ** 2).sum() / math.sqrt(len(q)))


def luong_location(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Luong et al. 2015, eq. 9: a_t = softmax(W_a h_t)."""
    return float((p["weight"][head].T @ q)[j])


SCORES: dict[type[Score], Compare] = {
    Concat: luong_concat,
    Biaffine: dozat,
    Cosine: henry,
    L2: kim,
    Location: luong_location,
}


@pytest.mark.parametrize("score_type", SCORES)
def test_scores(score_type: type[Score]) -> None:
    score = score_type(3, 4).double()
    for parameter in score.parameters():  # so that no bias is 0 and no two gains are equal
        nn.init.normal_(parameter)
    query, key = torch.randn(2, 3, 5, 4).double(), torch.randn(2, 3, 6, 4).double()
    logits = score(query, key)
    assert logits.shape == (2, 3, 5, 6)
    parameters = {name: p.detach().numpy() for name, p in score.named_parameters()}
    q, k = query.numpy(), key.numpy()
    for b, h, i, j in np.ndindex(2, 3, 5, 6):
        expected = SCORES[score_type](parameters, h, q[b, h, i], k[b, h, j], j)
        assert logits[b, h, i, j].item() == pytest.approx(expected, abs=1e-12)


def test_location_has_so_many_places() -> None:
    score = Location(2, 3, max_length=4)
    assert score(torch.ones(1, 2, 1, 3), torch.ones(1, 2, 4, 3)).shape == (1, 2, 1, 4)
    with pytest.raises(ValueError, match="4"):
        score(torch.ones(1, 2, 1, 3), torch.ones(1, 2, 5, 3))


def test_cosine_of_a_null_vector_is_finite() -> None:
    key = torch.zeros(1, 1, 2, 3, requires_grad=True)
    logits = Cosine(1, 3)(torch.randn(1, 1, 2, 3), key)
    logits.sum().backward()
    assert key.grad is not None
    assert (logits == 0).all()
    assert key.grad.isfinite().all()


# Normalizers


def softmax(x: Array) -> Array:
    return np.exp(x - logsumexp(x))


def top3(x: Array) -> Array:
    """Gupta et al. 2021: softmax of the k largest, of equal ones the first (a stable sort)."""
    best = np.argsort(-x, kind="stable")[:3]
    weights = np.zeros_like(x)
    for place, weight in zip(best, softmax(x[best]), strict=True):
        weights[place] = weight
    return weights


def martins(x: Array) -> Array:
    """Martins & Astudillo 2016, algorithm 1, by search for k(z)."""
    z = np.sort(x)[::-1]
    k = max(k for k in range(1, len(z) + 1) if 1 + k * z[k - 1] > z[:k].sum())
    return np.maximum(x - (z[:k].sum() - 1) / k, 0)


def peters(x: Array) -> Array:
    """Peters et al. 2019, eq. 12 with α = 1.5: [x/2 − τ]₊², τ by bisection (algorithm 1)."""
    low, high = x.max() / 2 - 1, x.max() / 2
    for _ in range(200):
        middle = (low + high) / 2
        if (np.maximum(x / 2 - middle, 0) ** 2).sum() < 1:
            high = middle
        else:
            low = middle
    return np.maximum(x / 2 - low, 0) ** 2


NORMALIZERS: dict[str, tuple[Callable[[], Normalizer], Normalize]] = {
    "softmax": (Softmax, softmax),
    "tempered": (lambda: TemperedSoftmax(0.5), lambda x: softmax(x / 0.5)),
    "learned-temperature": (lambda: TemperedSoftmax(3.0, learned=True), lambda x: softmax(x / 3)),
    # Miller 2023: exp(x_i) / (1 + Σ exp(x_j)), a further logit of 0
    "plus-one": (SoftmaxPlusOne, lambda x: np.exp(x - logsumexp(np.append(x, 0)))),
    # Ramapuram et al. 2025, §3: σ(x + b), b = −log n
    "sigmoid": (Sigmoid, lambda x: expit(x - math.log(len(x)))),
    # Wortsman et al. 2023, §3: L⁻¹ relu
    "relu": (ReLU, lambda x: np.maximum(x, 0) / len(x)),
    "sparsemax": (Sparsemax, martins),
    "entmax": (Entmax15, peters),
    "top-3": (lambda: TopK(3), top3),
}
EACH = pytest.mark.parametrize("name", NORMALIZERS)


@EACH
def test_normalizers(name: str) -> None:
    make, formula = NORMALIZERS[name]
    logits = 2 * torch.randn(2, 3, 7, 9).double()
    weights = make().double()(logits)
    expected = np.apply_along_axis(formula, -1, logits.numpy())
    tolerance = 1e-7 if "temp" in name else 1e-12  # 1 / 3.0 may have been rounded to float32
    assert_close(weights, torch.from_numpy(expected), rtol=0, atol=tolerance)


@EACH
@quick
@given(data=st.data())
def test_hidden_keys_do_not_count(name: str, data: st.DataObject) -> None:
    """The weights over the visible keys are those of the visible keys alone."""
    make, formula = NORMALIZERS[name]
    keys = data.draw(st.integers(1, 8))
    seen = data.draw(st.lists(st.booleans(), min_size=keys, max_size=keys))
    different = name == "top-3"  # for equals see test_top_k_takes_the_first_of_equals
    values = data.draw(
        st.lists(st.floats(-8, 8, width=16), min_size=keys, max_size=keys, unique=different)
    )
    logits = torch.tensor(values, dtype=torch.float64).view(1, 1, 1, keys)
    visible = torch.tensor(seen).view(1, 1, 1, keys)
    hidden = logits.masked_fill(~visible, torch.finfo(logits.dtype).min).requires_grad_()
    weights = make().double()(hidden, visible).masked_fill(~visible, 0)
    (gradient,) = torch.autograd.grad(weights.square().sum(), hidden)
    assert weights.isfinite().all()
    assert gradient.isfinite().all()
    if any(seen):
        expected = torch.from_numpy(formula(logits[visible].numpy()))
        assert_close(weights[visible], expected, rtol=0, atol=1e-7 if "temp" in name else 1e-12)


@EACH
@pytest.mark.parametrize("scale", [1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits(name: str, scale: float, dtype: torch.dtype) -> None:
    """Finite weights and gradients; where only one key is near the top, it has the weight."""
    logits = torch.tensor([[-1.0, 0.5, 1.0, -0.25], [-1.0, -1.0, -1.0, -1.0]]).view(1, 1, 2, 4)
    logits = (logits * scale).to(dtype).requires_grad_()
    weights = NORMALIZERS[name][0]()(logits)
    (gradient,) = torch.autograd.grad(weights.sum() + weights[..., 0].sum(), logits)
    assert weights.isfinite().all()
    assert gradient.isfinite().all()
    if name not in ("sigmoid", "relu"):
        assert_close(weights[0, 0, 0].float(), torch.tensor([0.0, 0, 1, 0]))
        largest = {"plus-one": 0, "top-3": 1 / 3}.get(name, 1 / 4)
        assert weights[0, 0, 1].max().item() == pytest.approx(largest, abs=2e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Sparsemax, entmax.sparsemax), (Entmax15, entmax.entmax15)]
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_entmax_package_agrees(
    ours: type[Normalizer], theirs: Callable[..., Tensor], scale: float
) -> None:
    logits = (scale * torch.randn(2, 3, 8, 11).double()).requires_grad_()
    wanted = theirs(logits, dim=-1)
    weights = ours()(logits)
    assert_close(weights, wanted)
    assert ((weights == 0) == (wanted == 0)).all()
    seed = torch.randn_like(logits)
    assert_close(
        torch.autograd.grad(weights, logits, seed), torch.autograd.grad(wanted, logits, seed)
    )


@pytest.mark.parametrize(("normalizer", "alpha"), [(Sparsemax, 2.0), (Entmax15, 1.5)])
@pytest.mark.parametrize("logits", [[1.0, 0.2, 0.9, -3.0], [0.0, 0.0, 0.4, 0.1]])
def test_entmax_maximizes(normalizer: type[Normalizer], alpha: float, logits: list[float]) -> None:
    """Peters et al. 2019, eq. 9–10: p maximizes pᵀz + Σ(p − p^α) / (α(α − 1)) over the simplex."""
    z = np.array(logits)

    def loss(p: Array) -> float:
        p = np.maximum(p, 0)
        return float(-(p @ z) - (p - p**alpha).sum() / (alpha * (alpha - 1)))

    best = minimize(
        loss,
        [0.25] * 4,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * 4,
        constraints=LinearConstraint(np.ones((1, 4)), 1, 1),
        options={"ftol": 1e-14, "maxiter": 500},
    )
    weights = normalizer()(torch.tensor(z).view(1, 1, 1, 4)).flatten()
    assert_close(weights, torch.from_numpy(best.x), rtol=0, atol=1e-4)
    assert loss(weights.numpy()) <= best.fun + 1e-9


@EACH
def test_only_differences_count(name: str) -> None:
    """A distribution does not change with a constant in the logits (here exact in float32)."""
    normalizer = NORMALIZERS[name][0]()
    logits = torch.randint(-200, 200, (1, 2, 5, 50)) / 64
    same = torch.allclose(normalizer(logits + 4096), normalizer(logits), rtol=0, atol=1e-5)
    assert same == normalizer.sums_to_one


@pytest.mark.parametrize("keys", [4, 40])
def test_top_k_takes_the_first_of_equals(keys: int) -> None:
    weights = TopK(3)(torch.zeros(1, 1, 2, keys))
    assert_close(weights, torch.tensor([1 / 3] * 3 + [0.0] * (keys - 3)).expand(1, 1, 2, keys))


def test_sparsemax_by_hand() -> None:
    """For z = (1, 0.5, −1) the paper's k(z) = 2, τ = (1.5 − 1) / 2 = 0.25."""
    weights = Sparsemax()(torch.tensor([[[[1.0, 0.5, -1.0]]]]))
    assert_close(weights, torch.tensor([[[[0.75, 0.25, 0.0]]]]))


def test_bad_normalizers() -> None:
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="temperature"):
            TemperedSoftmax(temperature)
    with pytest.raises(ValueError, match="k must"):
        TopK(0)


# Positions


def placed(positions: Positions, query: Tensor, key: Tensor, start: int = 0) -> tuple[Array, Array]:
    query, key = positions.place(query, key, start)
    return query.detach().numpy(), key.detach().numpy()


def pair(queries: int = 4, keys: int = 6, width: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, queries, width).double(), torch.randn(2, 2, keys, width).double()


@pytest.mark.parametrize("width", [1, 5, 6])
def test_sinusoidal(width: int) -> None:
    """Vaswani et al. 2017, §3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(…)."""

    def encode(position: int) -> Array:
        angles = [position / 10000 ** (2 * (c // 2) / width) for c in range(width)]
        return np.array([math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)])

    query, key = pair(width=width)
    new_query, new_key = placed(Sinusoidal(4, width), query, key, start=3)
    for i in range(4):
        assert_close(new_query[:, :, i], query.numpy()[:, :, i] + encode(3 + i), atol=1e-6, rtol=0)
    for j in range(6):
        assert_close(new_key[:, :, j], key.numpy()[:, :, j] + encode(j), atol=1e-6, rtol=0)


@pytest.mark.parametrize("base", [10000.0, 50.0])
def test_rotary_is_multiplication_by_a_phase(base: float) -> None:
    """Su et al. 2021, eq. 12–15: component pairs, as complex numbers, times e^(i·m·θ)."""

    def turn(x: Array, position: int) -> Array:
        z = x[..., :3] + 1j * x[..., 3:]
        z = z * np.exp(1j * position * base ** (-2 * np.arange(3) / 6))
        return np.concatenate([z.real, z.imag], -1)

    query, key = pair()
    new_query, new_key = placed(Rotary(4, 6, base), query, key, start=7)
    for i in range(4):
        assert_close(new_query[:, :, i], turn(query.numpy()[:, :, i], 7 + i), atol=1e-5, rtol=0)
    for j in range(6):
        assert_close(new_key[:, :, j], turn(key.numpy()[:, :, j], j), atol=1e-5, rtol=0)


def test_rotary_knows_the_distance_only() -> None:
    """The same query and key at all places: q·k is constant along diagonals (Su et al., eq. 11)."""
    query, key = torch.randn(1, 1, 1, 8).expand(-1, -1, 9, -1), torch.randn(1, 1, 1, 8)
    new_query, new_key = placed(Rotary(1, 8), query, key.expand(-1, -1, 9, -1))
    products = np.einsum("bhld,bhsd->ls", new_query, new_key)
    for offset in range(-8, 9):
        assert np.ptp(np.diagonal(products, offset)) < 1e-5
    assert np.ptp(products[0]) > 0.1


@pytest.mark.parametrize(
    "positions_type", [NoPositions, Sinusoidal, Learned, Rotary, ALiBi, T5Bias, Shaw]
)
def test_start_is_where_the_queries_begin(positions_type: type[Positions]) -> None:
    positions = positions_type(4, 6).double()
    query, key = pair(queries=6)
    whole, whole_key = placed(positions, query, key)
    bias = positions.bias(query, 0, 6)
    for start in range(6):
        part, part_key = placed(positions, query[:, :, start:], key, start)
        assert_close(part, whole[:, :, start:], atol=1e-12, rtol=0)
        assert_close(part_key, whole_key, atol=0, rtol=0)
        of_part = positions.bias(query[:, :, start:], start, 6)
        if bias is None:
            assert of_part is None
        else:
            assert of_part is not None
            assert_close(of_part, bias[..., start:, :])


EIGHT = [2.0**-n for n in range(1, 9)]
SIXTEEN = [2.0 ** (-n / 2) for n in range(1, 17)]
SLOPES = {1: [2.0**-8], 2: [2.0**-4, 2.0**-8], 8: EIGHT, 12: EIGHT + SIXTEEN[::2][:4]}


@pytest.mark.parametrize("heads", SLOPES)
def test_alibi(heads: int) -> None:
    """Press et al. 2022, §3, and for 12 heads their published ``get_slopes``."""
    bias = ALiBi(heads, 2).bias(torch.randn(2, heads, 3, 2), 4, 9)
    assert bias is not None
    bias = bias.expand(2, heads, 3, 9)
    for h, i, j in np.ndindex(heads, 3, 9):
        expected = -SLOPES[heads][h] * abs(4 + i - j)
        assert bias[1, h, i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def t5_bucket(distance: int, buckets: int, max_distance: int) -> int:
    """T5's ``_relative_position_bucket`` (bidirectional), the floor of its logarithm exact.

    floor(n · log(r/e) / log(D/e)) is the largest b with (D/e)^b ≤ (r/e)^n.
    """
    half = buckets // 2
    bucket = half if distance > 0 else 0
    exact, far = half // 2, abs(distance)
    if far < exact:
        return bucket + far
    grown, n = 0, half - exact
    while grown < n - 1 and max_distance ** (grown + 1) * exact**n <= far**n * exact ** (grown + 1):
        grown += 1
    return bucket + exact + grown


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (16, 64), (4, 3)])
def test_t5(buckets: int, max_distance: int) -> None:
    """Raffel et al. 2020, §2.1, for distances −300 … 300."""
    positions = T5Bias(2, 3, buckets=buckets, max_distance=max_distance)
    table = torch.stack([torch.arange(buckets), -torch.arange(buckets)]).float()
    positions.table = nn.Parameter(table)
    row = positions.bias(torch.randn(1, 2, 1, 3), 300, 601)
    assert row is not None
    expected = [t5_bucket(j - 300, buckets, max_distance) for j in range(601)]
    actual = row.expand(1, 2, 1, 601)[0, :, 0].detach().int()
    assert actual[0].tolist() == expected
    assert actual[1].tolist() == [-bucket for bucket in expected]


def test_shaw() -> None:
    """Shaw et al. 2018, eq. 4–5: q (k + a[clip(j − i, D)])ᵀ / √d."""
    positions = Shaw(4, 6, max_distance=2).double()
    query, _ = pair()
    bias = positions.bias(query, 1, 7)
    assert bias is not None
    q, a = query.numpy(), positions.table.detach().numpy()
    for b, h, i, j in np.ndindex(2, 4, 4, 7):
        expected = q[b, h, i] @ a[max(-2, min(2, j - (1 + i))) + 2] / math.sqrt(6)
        assert bias[b, h, i, j].item() == pytest.approx(expected, abs=1e-12)


def test_learned() -> None:
    """Gehring et al. 2017, §3.1: x + p."""
    positions = Learned(4, 6, max_length=6).double()
    query, key = pair()
    new_query, new_key = placed(positions, query, key, start=2)
    table = positions.table.detach().numpy()
    assert_close(new_query, query.numpy() + table[2:6])
    assert_close(new_key, key.numpy() + table)
    for arguments in [(query, torch.cat([key, key], 2), 0), (query, key, 3)]:
        with pytest.raises(ValueError, match="6"):
            positions.place(*arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotary(1, 3), "even"),
        (lambda: Rotary(1, 4, base=1.0), "base"),
        (lambda: T5Bias(1, 4, buckets=6), "buckets"),
        (lambda: T5Bias(1, 4, buckets=32, max_distance=8), "max_distance"),
        (lambda: Shaw(1, 4, max_distance=0), "max_distance"),
        (lambda: Learned(1, 4, max_length=0), "max_length"),
        (lambda: Sinusoidal(0, 4), "heads"),
    ],
)
def test_bad_positions(make: Callable[[], Positions], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Masks


def check_mask(
    mask: Mask, sees: Callable[[int, int], bool], queries: int, keys: int, start: int
) -> None:
    """``mask`` is ``sees(query, key)``, and its rows from ``start`` on are those of the whole."""
    whole = mask.dense(2, 3, queries, keys, CPU).expand(2, 3, queries, keys)
    wanted = torch.tensor([[sees(i, j) for j in range(keys)] for i in range(queries)])
    assert whole.dtype == torch.bool
    assert (whole == wanted).all()
    rows = mask.dense(2, 3, queries - start, keys, CPU, start=start)
    assert (rows == whole[:, :, start:]).all()


@st.composite
def lengths(draw: st.DrawFn) -> tuple[int, int, int]:
    """(queries, keys, start)."""
    queries = draw(st.integers(1, 12))
    return queries, draw(st.integers(1, 12)), draw(st.integers(0, queries - 1))


SIZE = st.integers(1, 7)


@quick
@given(sizes=lengths(), window=SIZE)
def test_sliding_window(sizes: tuple[int, int, int], window: int) -> None:
    """Beltagy et al. 2020, §3.1: w keys up to one's own, or w/2 on each side of it."""
    check_mask(SlidingWindow(window), lambda i, j: j in range(i - window + 1, i + 1), *sizes)
    odd = 2 * window - 1
    check_mask(SlidingWindow(odd, centred=True), lambda i, j: abs(i - j) < window, *sizes)


@quick
@given(sizes=lengths(), window=SIZE, dilation=SIZE)
def test_dilated(sizes: tuple[int, int, int], window: int, dilation: int) -> None:
    check_mask(
        Dilated(window, dilation),
        lambda i, j: any(j == i - n * dilation for n in range(window)),
        *sizes,
    )


@quick
@given(sizes=lengths(), prefix=SIZE)
def test_prefix(sizes: tuple[int, int, int], prefix: int) -> None:
    """Raffel et al. 2020, fig. 4."""
    check_mask(PrefixLM(prefix), lambda i, j: j < prefix or j <= i, *sizes)


@quick
@given(sizes=lengths(), block=SIZE, data=st.data())
def test_block_sparse(sizes: tuple[int, int, int], block: int, data: st.DataObject) -> None:
    """Child et al. 2019, §4.3: ⌊j/l⌋ = ⌊i/l⌋, or j mod l ∈ {l − c, …, l − 1}."""
    summary = data.draw(st.integers(1, block))
    check_mask(
        BlockSparse(block, summary),
        lambda i, j: i // block == j // block or j % block in range(block - summary, block),
        *sizes,
    )


@quick
@given(sizes=lengths(), count=SIZE, window=SIZE)
def test_composition(sizes: tuple[int, int, int], count: int, window: int) -> None:
    tokens, near = GlobalTokens(count), SlidingWindow(window)
    check_mask(tokens, lambda i, j: i < count or j < count, *sizes)
    check_mask(tokens | near, lambda i, j: i < count or j < count or i - window < j <= i, *sizes)
    check_mask(
        tokens & Causal() & near,
        lambda i, j: (i < count or j < count) and i - window < j <= i,
        *sizes,
    )
    check_mask(Everything(), lambda i, j: True, *sizes)
    check_mask(Everything() & near, lambda i, j: i - window < j <= i, *sizes)
    check_mask(near & Everything(), lambda i, j: i - window < j <= i, *sizes)
    check_mask(near | Everything(), lambda i, j: True, *sizes)
    check_mask(Everything() | near, lambda i, j: True, *sizes)


@quick
@given(sizes=lengths(), seed=st.integers(0, 1000))
def test_documents(sizes: tuple[int, int, int], seed: int) -> None:
    length, _, start = sizes
    ids = torch.randint(0, 3, (2, length), generator=torch.Generator().manual_seed(seed))
    mask = Documents(ids)
    mask.check(2, 3, length, length)
    whole = mask.dense(2, 3, length, length, CPU).expand(2, 3, length, length)
    for b, h, i, j in np.ndindex(2, 3, length, length):
        assert whole[b, h, i, j].item() == (ids[b, i] == ids[b, j]).item()
    rows = mask.dense(2, 3, length - start, length, CPU, start=start)
    assert (rows == whole[:, :, start:]).all()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (1, 1, 4, 5)])
def test_dense(shape: tuple[int, ...]) -> None:
    visible = torch.rand(shape) < 0.5
    mask = Dense(visible)
    mask.check(2, 3, 4, 5)
    assert (mask.dense(2, 3, 4, 5, CPU) == visible.expand(2, 3, 4, 5)).all()
    assert (mask.dense(2, 3, 2, 5, CPU, start=2) == visible.expand(2, 3, 4, 5)[:, :, 2:]).all()


@pytest.mark.parametrize("mask", [Dense(torch.ones(2, 1, 4, 5) > 0), Padding(torch.ones(2, 5) > 0)])
@pytest.mark.parametrize("compose", [lambda m: m, lambda m: Causal() & m, lambda m: m | Causal()])
@pytest.mark.parametrize("sizes", [(3, 1, 4, 5), (2, 1, 4, 6)])
def test_masks_must_fit(
    mask: Mask, compose: Callable[[Mask], Mask], sizes: tuple[int, int, int, int]
) -> None:
    compose(mask).check(2, 1, 4, 5)
    with pytest.raises(ValueError, match=str(sizes[0] if sizes[0] != 2 else sizes[3])):
        compose(mask).check(*sizes)


@pytest.mark.parametrize("heads", [2, 4, 9])
def test_a_mask_for_other_heads_is_refused(heads: int) -> None:
    mask = Dense(torch.ones(1, 3, 4, 5, dtype=torch.bool))
    mask.check(2, 3, 4, 5)
    with pytest.raises(ValueError, match=rf"{heads} heads.*\(1, 3, 4, 5\)"):
        mask.check(2, heads, 4, 5)


AHEAD = {
    "Causal()": False,
    "SlidingWindow(3)": False,
    "SlidingWindow(3, centred=True)": True,
    "Dilated(3)": False,
    "PrefixLM(2)": True,
    "Everything()": True,
    "Padding((1, 2))": True,
    "Both(left=Causal(), right=Padding((1, 2)))": False,
    "Either(left=Causal(), right=GlobalTokens(count=1))": True,
}


def test_who_looks_ahead() -> None:
    """A mask says so, and what it is in one short line."""
    padding = Padding(torch.ones(1, 2, dtype=torch.bool))
    masks = [
        Causal(),
        SlidingWindow(3),
        SlidingWindow(3, centred=True),
        Dilated(3),
        PrefixLM(2),
        Everything(),
        padding,
        Causal() & padding,
        Causal() | GlobalTokens(),
    ]
    assert [mask.looks_ahead for mask in masks] == list(AHEAD.values())
    assert [repr(masks[index]) for index in (6, 7, 8)] == list(AHEAD)[6:]


def test_documents_must_fit() -> None:
    for sizes in [(3, 1, 5, 5), (2, 1, 5, 6), (2, 1, 6, 5)]:
        with pytest.raises(ValueError, match="document ids"):
            Documents(torch.zeros(2, 5, dtype=torch.long)).check(*sizes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(torch.zeros(1, 1, 4, 5)), "float32"),
        (lambda: Dense(torch.zeros(4, 5) > 0), r"\(4, 5\)"),
        (lambda: Documents(torch.zeros(2, 5)), "float32"),
        (lambda: Documents(torch.zeros(5).long()), r"\(5,\)"),
        (lambda: SlidingWindow(0), "window"),
        (lambda: SlidingWindow(4, centred=True), "odd"),
        (lambda: Dilated(0, 1), "window"),
        (lambda: Dilated(1, 0), "dilation"),
        (lambda: PrefixLM(0), "prefix"),
        (lambda: BlockSparse(0, 1), "block"),
        (lambda: BlockSparse(4, 0), "summary"),
        (lambda: BlockSparse(4, 5), "summary"),
        (lambda: GlobalTokens(0), "count"),
    ],
)
def test_bad_masks(make: Callable[[], Mask], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_learned_temperature_has_a_gradient_beside_hidden_keys(dtype: torch.dtype) -> None:
    """The lowest number minus a large one would be −∞, and the temperature's gradient 0 · ∞."""
    normalizer = TemperedSoftmax(learned=True).to(dtype)
    lowest = torch.finfo(dtype).min
    logits = torch.tensor([[1000.0, 3.0, lowest]], dtype=dtype, requires_grad=True)
    normalizer(logits)[0, 1].backward()
    assert normalizer.log_temperature.grad is not None
    assert normalizer.log_temperature.grad.isfinite()


def test_a_gain_may_be_a_whole_number() -> None:
    assert Cosine(2, 4, gain=3).gain.tolist() == [[[3.0]], [[3.0]]]


def test_the_nearest_key_of_all_is_the_query_itself_in_half_precision() -> None:
    x = 3 * torch.randn(1, 2, 5, 64, dtype=torch.bfloat16)
    logits = L2(2, 64)(x, x)
    assert logits.max() == 0
    assert torch.equal(logits.argmax(-1)[0, 0], torch.arange(5))
