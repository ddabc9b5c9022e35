"""The mechanisms against independent implementations.

The loops below are written from the papers, in plain Python numbers; PyTorch's own attention is the
other witness.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from attention_lab.attention import (
    BACKENDS,
    Additive,
    Axes,
    Causal,
    Dense,
    DotProduct,
    General,
    Padding,
    ScaledDotProduct,
    Score,
    ScoredAttention,
    Softmax,
    Uniform,
)
from attention_lab.contract.checks import example

Vector = list[float]
Compare = Callable[[int, Vector, Vector], float]  # (head, query, key) → logit


def dot(q: Vector, k: Vector) -> float:
    return sum(a * b for a, b in zip(q, k, strict=True))


def luong_dot(score: Score) -> Compare:
    """Luong et al. 2015, eq. 8: h_tᵀ h̄_s."""
    return lambda head, q, k: dot(q, k)


def vaswani(score: Score) -> Compare:
    """Vaswani et al. 2017, eq. 1: q · k / √d_k."""
    return lambda head, q, k: dot(q, k) / math.sqrt(len(k))


def luong_general(score: Score) -> Compare:
    """Luong et al. 2015, eq. 8: h_tᵀ W_a h̄_s."""
    matrices = score.get_parameter("weight").tolist()
    return lambda head, q, k: dot(q, [dot(row, k) for row in matrices[head]])


def bahdanau(score: Score) -> Compare:
    """Bahdanau et al. 2015, §A.1.2: v_aᵀ tanh(W_a s + U_a h)."""
    maps = score.get_parameter("query_weight").tolist(), score.get_parameter("key_weight").tolist()
    vectors = score.get_parameter("vector").tolist()

    def compare(head: int, q: Vector, k: Vector) -> float:
        total = 0.0
        for a, v in enumerate(vectors[head]):
            from_query = dot(q, [row[a] for row in maps[0][head]])
            from_key = dot(k, [row[a] for row in maps[1][head]])
            total += v * math.tanh(from_query + from_key)
        return total

    return compare


def nothing(score: Score) -> Compare:
    return lambda head, q, k: 0.0


def softmax(logits: Vector, visible: list[bool]) -> Vector:
    """Over the visible keys; zeros where there are none."""
    largest = max((a for a, seen in zip(logits, visible, strict=True) if seen), default=0.0)
    powers = [
        math.exp(a - largest) if seen else 0.0 for a, seen in zip(logits, visible, strict=True)
    ]
    return [power / (sum(powers) or 1.0) for power in powers]


def attend(
    compare: Compare, query: Tensor, key: Tensor, value: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """Output and weights by loops over batch, heads and queries, in float64."""
    batch, heads, queries, _ = query.shape
    group = heads // key.shape[1]
    output = torch.zeros(batch, heads, queries, value.shape[-1], dtype=torch.float64)
    weights = torch.zeros(visible.shape, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            keys, values = key[b, h // group].tolist(), value[b, h // group].tolist()
            for i in range(queries):
                q = query[b, h, i].tolist()
                row = softmax([compare(h, q, k) for k in keys], visible[b, h, i].tolist())
                weights[b, h, i] = torch.tensor(row, dtype=torch.float64)
                for j in range(value.shape[-1]):
                    output[b, h, i, j] = dot(row, [v[j] for v in values])
    return output, weights


FORMULAS: dict[type[Score], Callable[[Score], Compare]] = {
    DotProduct: luong_dot,
    ScaledDotProduct: vaswani,
    General: luong_general,
    Additive: bahdanau,
    Uniform: nothing,
}
CASES = [
    pytest.param(score, backend.name, id=f"{score.__name__}-{backend.name}")
    for score in FORMULAS
    for backend in BACKENDS
    if backend.refusal(Axes(score(1, 1), Softmax())) is None and "cpu" in backend.trains_on
]
AUTO_AND_EAGER = ["auto", "eager"]


@pytest.mark.parametrize("score_type", FORMULAS)
def test_logits(score_type: type[Score]) -> None:
    score = score_type(4, 3).double()
    query, key = torch.randn(2, 4, 5, 3).double(), torch.randn(2, 4, 6, 3).double()
    logits = score(query, key)
    assert logits.shape == (2, 4, 5, 6)
    compare = FORMULAS[score_type](score)
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, logits.shape)).tolist():
        expected = compare(h, query[b, h, i].tolist(), key[b, h, j].tolist())
        assert logits[b, h, i, j].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("hidden_dim", [1, 7])
def test_additive_hidden_layer(hidden_dim: int) -> None:
    score = Additive(2, 3, hidden_dim=hidden_dim).double()
    assert score.query_weight.shape == score.key_weight.shape == (2, 3, hidden_dim)
    assert score.vector.shape == (2, hidden_dim)
    query, key = torch.randn(1, 2, 1, 3).double(), torch.randn(1, 2, 1, 3).double()
    for head in range(2):
        expected = bahdanau(score)(head, query[0, head, 0].tolist(), key[0, head, 0].tolist())
        assert score(query, key)[0, head].item() == pytest.approx(expected, abs=1e-12)


def test_additive_hidden_layer_is_as_wide_as_the_head() -> None:
    assert Additive(2, 3).vector.shape == (2, 3)


def test_general_is_not_its_transpose() -> None:
    """qᵀ W k with q = e₀, k = e₁ is W₀₁."""
    score = General(1, 2)
    unit = torch.eye(2).view(1, 1, 2, 2)
    assert_close(score(unit, unit)[0, 0], score.weight[0])


def test_uniform_averages_what_is_visible() -> None:
    layer = ScoredAttention(
        2, score=Uniform, normalizer=Softmax, projections="none", backend="eager"
    )
    memory = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [50.0, 50.0]]])
    mask = Padding(torch.tensor([[True, True, False]]))
    output = layer(torch.randn(1, 1, 2), memory, mask).output
    assert_close(output, torch.tensor([[[2.0, 1.0]]]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, int], bool, bool, int]:
    """Sizes, whether float64, whether contiguous, and a seed for the rest."""
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    sizes = {
        "batch": draw(st.integers(1, 3)),
        "heads": kv_heads * group,
        "kv_heads": kv_heads,
        "queries": draw(st.integers(1, 5)),
        "keys": draw(st.integers(1, 5)),
        "head_dim": draw(st.integers(1, 4)),
        "value_dim": draw(st.integers(1, 4)),
    }
    return sizes, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**31))


def strided(x: Tensor) -> Tensor:
    """The same numbers with a hole after each, positions before heads, batch innermost."""
    holes = torch.full((*x.permute(2, 1, 3, 0).shape, 2), torch.nan, dtype=x.dtype)
    holes[..., 0] = x.permute(2, 1, 3, 0)
    return holes[..., 0].permute(3, 1, 0, 2)


@pytest.mark.parametrize(("score_type", "backend"), CASES)
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(problem=problems())
def test_any_shape(
    score_type: type[Score], backend: str, problem: tuple[dict[str, int], bool, bool, int]
) -> None:
    """Any sizes, L ≠ S, length 1, any strides, any mask with rows of any emptiness."""
    sizes, wide, contiguous, seed = problem
    torch.manual_seed(seed)
    layer = ScoredAttention(
        sizes["heads"] * sizes["head_dim"],
        score=score_type,
        normalizer=Softmax,
        heads=sizes["heads"],
        kv_heads=sizes["kv_heads"],
        backend=backend,
    ).to(torch.float64 if wide else torch.float32)
    query, key, value = (
        torch.randn(sizes["batch"], sizes[heads], sizes[length], sizes[dim])
        for heads, length, dim in [
            ("heads", "queries", "head_dim"),
            ("kv_heads", "keys", "head_dim"),
            ("kv_heads", "keys", "value_dim"),
        ]
    )
    if wide:
        query, key, value = query.double(), key.double(), value.double()
    visible = torch.rand(*query.shape[:3], sizes["keys"]) < 0.6
    expected = attend(FORMULAS[score_type](layer.score), query, key, value, visible)
    if not contiguous:
        query, key, value = strided(query), strided(key), strided(value)
    output, _ = layer.attend(query, key, value, Dense(visible), False)
    _, weights = layer.attend(query, key, value, Dense(visible), True)
    assert weights is not None
    tolerance = 1e-12 if wide else 2e-5
    for actual, wanted in zip((output, weights), expected, strict=True):
        assert actual.dtype == query.dtype
        assert_close(actual.double(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("backend", AUTO_AND_EAGER)
@pytest.mark.parametrize("mask", ["none", "causal"])
@pytest.mark.parametrize("lengths", [(3, 5), (5, 3), (4, 4)])
def test_scaled_dot_product_is_pytorchs(backend: str, mask: str, lengths: tuple[int, int]) -> None:
    """Also in which key head serves which query heads, and in where a causal mask is aligned."""
    it = example(mask, heads=6, kv_heads=2, queries=lengths[0], keys=lengths[1])
    layer = ScoredAttention(
        18, score=ScaledDotProduct, normalizer=Softmax, heads=6, kv_heads=2, backend=backend
    )
    output, _ = layer.attend(it.query, it.key, it.value, it.mask, False)
    expected = F.scaled_dot_product_attention(
        it.query, it.key, it.value, is_causal=mask == "causal", enable_gqa=True
    )
    assert_close(output, expected)


@pytest.mark.parametrize("backend", AUTO_AND_EAGER)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("memory_dim", [8, 6])
def test_whole_layer_is_pytorchs(backend: str, bias: bool, memory_dim: int) -> None:
    """``nn.MultiheadAttention``, whose masks are True where a query may NOT look."""
    torchs = nn.MultiheadAttention(
        8, num_heads=2, bias=bias, kdim=memory_dim, vdim=memory_dim, batch_first=True
    )
    ours = ScoredAttention(
        8,
        memory_dim,
        score=ScaledDotProduct,
        normalizer=Softmax,
        heads=2,
        bias=bias,
        backend=backend,
    )
    if memory_dim == 8:
        matrices = torchs.in_proj_weight.chunk(3)
    else:
        matrices = torchs.q_proj_weight, torchs.k_proj_weight, torchs.v_proj_weight
    ours.query_projection.weight, ours.key_projection.weight, ours.value_projection.weight = (
        nn.Parameter(matrix) for matrix in matrices
    )
    ours.output_projection.weight = torchs.out_proj.weight
    if bias:
        nn.init.normal_(torchs.in_proj_bias)
        nn.init.normal_(torchs.out_proj.bias)
        ours.query_projection.bias, ours.key_projection.bias, ours.value_projection.bias = (
            nn.Parameter(vector) for vector in torchs.in_proj_bias.chunk(3)
        )
        ours.output_projection.bias = torchs.out_proj.bias

    query, memory = torch.randn(3, 4, 8), torch.randn(3, 5, memory_dim)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1]]).bool()
    future = torch.ones(4, 5, dtype=torch.bool).triu(1)
    expected, expected_weights = torchs(
        query,
        memory,
        memory,
        key_padding_mask=~valid,
        attn_mask=future,
        average_attn_weights=False,
    )
    output, weights = ours(query, memory, Causal() & Padding(valid), need_weights=True)
    assert_close(output, expected)
    assert_close(weights, expected_weights)
    assert_close(ours(query, memory, Causal() & Padding(valid)).output, expected)


@pytest.mark.parametrize("heads", [1, 3])
def test_additive_layer_is_bahdanaus(heads: int) -> None:
    """Without projections: c = Σ α h, with the encoder's states as keys and values."""
    layer = ScoredAttention(
        6,
        score=partial(Additive, hidden_dim=5),
        normalizer=Softmax,
        heads=heads,
        projections="none",
    ).double()
    query, memory = torch.randn(2, 4, 6).double(), torch.randn(2, 5, 6).double()
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    queries, keys = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, memory))
    visible = valid[:, None, None].expand(2, heads, 4, 5)
    expected, expected_weights = attend(bahdanau(layer.score), queries, keys, keys, visible)
    output, weights = layer(query, memory, Padding(valid), need_weights=True)
    assert_close(weights, expected_weights)
    assert_close(output, expected.transpose(1, 2).flatten(2))
