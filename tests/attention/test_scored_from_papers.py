"""Scored attention against its papers, by loops in float64 NumPy, and against PyTorch's own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from torch import Tensor, nn
from torch.testing import assert_close

from attention_lab.attention import (
    BACKENDS,
    ALiBi,
    AttentionInputs,
    AttentionSpec,
    Causal,
    Dense,
    Learned,
    Padding,
    Positions,
    Rotary,
    ScaledDotProduct,
    Score,
    ScoredAttention,
    Shaw,
    Sinusoidal,
    Softmax,
    T5Bias,
)
from tests.attention.loops import H_KV, MASKS, Array, E, H, by_loops, check, masked, softmax, triple
from tests.attention.test_scores_from_papers import SCORES

CASES = [
    pytest.param(score, backend.name, id=f"{score.__name__}-{backend.name}")
    for score in SCORES
    for backend in BACKENDS
    if backend.refusal(AttentionSpec(score(1, 1), Softmax())) is None and "cpu" in backend.trains_on
]
AUTO_AND_EAGER = ["auto", "eager"]


def by_formula(
    score: Score, tensors: tuple[Tensor, Tensor, Tensor], visible: Tensor
) -> tuple[Tensor, Tensor]:
    """Softmax of a score's formula over the visible keys."""
    parameters = {name: p.detach().double().numpy() for name, p in score.named_parameters()}
    formula = SCORES[type(score)]

    def weigh(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        logits = [formula(parameters, head, q, k, j) for k, j in zip(keys, seen, strict=True)]
        return softmax(logits)

    query, key, value = (x.double() for x in tensors)
    return by_loops(weigh, (query, key, value), lambda b, h, i, j: bool(visible[b, h, i, j]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, int], bool, bool, int]:
    """Sizes, whether float64, whether contiguous, and a seed for the rest."""
    num_kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    sizes = {
        "batch": draw(st.integers(1, 3)),
        "num_heads": num_kv_heads * group,
        "num_kv_heads": num_kv_heads,
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
@given(inputs=problems())
def test_any_shape(
    score_type: type[Score], backend: str, inputs: tuple[dict[str, int], bool, bool, int]
) -> None:
    """Any sizes, L ≠ S, length 1, any strides, any mask with rows of any emptiness."""
    sizes, wide, contiguous, seed = inputs
    torch.manual_seed(seed)
    layer = ScoredAttention(
        sizes["num_heads"] * sizes["head_dim"],
        score=score_type,
        normalizer=Softmax,
        projections="all",  # also for scores with maps of their own: key heads are grouped
        num_heads=sizes["num_heads"],
        num_kv_heads=sizes["num_kv_heads"],
        backend=backend,
    ).to(torch.float64 if wide else torch.float32)
    query, key, value = (
        torch.randn(sizes["batch"], sizes[num_heads], sizes[length], sizes[dim])
        for num_heads, length, dim in [
            ("num_heads", "queries", "head_dim"),
            ("num_kv_heads", "keys", "head_dim"),
            ("num_kv_heads", "keys", "value_dim"),
        ]
    )
    if wide:
        query, key, value = query.double(), key.double(), value.double()
    visible = torch.rand(*query.shape[:3], sizes["keys"]) < 0.6
    expected = by_formula(layer.score, (query, key, value), visible)
    if not contiguous:
        query, key, value = strided(query), strided(key), strided(value)
    output, _ = layer.attend(AttentionInputs(query, key, value, Dense(visible), False))
    _, weights = layer.attend(AttentionInputs(query, key, value, Dense(visible), True))
    assert weights is not None
    tolerance = 1e-12 if wide else 2e-5
    for actual, wanted in zip((output, weights), expected, strict=True):
        assert actual.dtype == query.dtype
        assert_close(actual.double(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("backend", AUTO_AND_EAGER)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kdim", [8, 6])
def test_whole_layer_is_pytorchs(backend: str, bias: bool, kdim: int) -> None:
    """``nn.MultiheadAttention``, whose masks are True where a query may NOT look."""
    torchs = nn.MultiheadAttention(
        8, num_heads=2, bias=bias, kdim=kdim, vdim=kdim, batch_first=True
    )
    ours = ScoredAttention(
        8,
        kdim,
        score=ScaledDotProduct,
        normalizer=Softmax,
        num_heads=2,
        bias=bias,
        backend=backend,
    )
    if kdim == 8:
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

    query, memory = torch.randn(3, 4, 8), torch.randn(3, 5, kdim)
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


@pytest.mark.parametrize("name", MASKS)
def test_talking_heads(name: str) -> None:
    """Shazeer et al. 2020, §3: L = J·P_l, softmax, U = W·P_w, with P_l and P_w (from, to)."""
    layer = ScoredAttention(
        H * E,
        score=ScaledDotProduct,
        normalizer=Softmax,
        num_heads=H,
        num_kv_heads=H_KV,
        talking_heads=True,
    ).double()
    assert layer.mixing is not None
    nn.init.normal_(layer.mixing.logits_map)
    nn.init.normal_(layer.mixing.weights_map)
    before, after = (m.detach().numpy() for m in layer.mixing.parameters())
    tensors = triple(5, 6)
    mask, is_visible = masked(name, 6)
    query, key, value = (x.numpy() for x in tensors)
    weights, output = np.zeros((2, H, 5, 6)), np.zeros((2, H, 5, E))
    for b, i in np.ndindex(2, 5):
        seen = [j for j in range(6) if is_visible(b, 0, i, j)]
        logits = np.zeros((H, len(seen)))
        for h, (n, j) in [(h, pair) for h in range(H) for pair in enumerate(seen)]:
            logits[h, n] = query[b, h, i] @ key[b, h // 2, j] / math.sqrt(E)
        rows = [softmax(list(sum(before[h, g] * logits[h] for h in range(H)))) for g in range(H)]
        for g in range(H):
            weights[b, g, i, seen] = sum(after[h, g] * rows[h] for h in range(H))
            for j in seen:
                output[b, g, i] += weights[b, g, i, j] * value[b, g // 2, j]
    check(layer, tensors, mask, (torch.from_numpy(output), torch.from_numpy(weights)))


def test_a_talking_head_that_sees_nothing_says_nothing() -> None:
    """Heads may have masks of their own; a head without keys adds nothing to the others."""
    layer = ScoredAttention(
        8, score=ScaledDotProduct, normalizer=Softmax, num_heads=2, talking_heads=True
    ).double()
    assert layer.mixing is not None
    with torch.no_grad():
        layer.mixing.weights_map.copy_(torch.tensor([[1.0, 0.5], [0.25, 1.0]]))
    query, key, value = (torch.randn(1, 2, n, 4, dtype=torch.float64) for n in (3, 4, 4))
    visible = torch.ones(1, 2, 3, 4, dtype=torch.bool)
    visible[:, 0] = False  # all keys are hidden from the first head
    visible[:, 1, :, 3] = False  # nor the second the last key
    visible[:, :, 2] = True  # but the last query everything
    weights = layer.attend(AttentionInputs(query, key, value, Dense(visible), True))[1]
    assert weights is not None
    assert_close(weights.sum(-1)[0, :, :2], torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double())
    assert_close(weights.sum(-1)[0, :, 2], torch.tensor([1.25, 1.5]).double())
    alone = (query[:, 1] @ key[:, 1].mT / 2)[..., :3].softmax(-1)
    assert_close(weights[:, 1, :2, :3], alone[:, :2])


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
        num_heads=H,
        num_kv_heads=H_KV,
        backend=backend,
    ).double()
    query, key, value = triple(4, 7)
    mask, is_visible = masked("causal-padding", 7)
    with torch.no_grad():
        placed = layer.positions.place(query, key, start)
        bias = layer.positions.bias(query, start, 7)
    shift = np.zeros((2, H, 4, 7)) if bias is None else bias.expand(2, H, 4, 7).numpy()
    row = iter(np.ndindex(2, H, 4))  # the rows in the order of ``by_loops``

    def vaswani(head: int, q: Array, keys: Array, seen: list[int]) -> Array:
        added = shift[next(row)]
        return softmax([q @ k / math.sqrt(E) + added[j] for k, j in zip(keys, seen, strict=True)])

    expected = by_loops(vaswani, (*placed, value), is_visible, start)
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
        head_dim=E,
        num_heads=H,
        num_kv_heads=H_KV,
        latent_dim=latent_dim,
        gate=gate,
        bias=True,
    ).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    query, memory = torch.randn(2, 4, 10).double(), torch.randn(2, 6, 7).double()
    mask, is_visible = masked("causal-padding", 6)

    def linear(name: str, x: Array) -> Array:
        if not isinstance(module := layer.get_submodule(name), nn.Linear):
            return x
        return x @ module.weight.detach().numpy().T + module.bias.detach().numpy()

    def split(x: Array, num_heads: int) -> Tensor:
        return torch.from_numpy(
            np.stack([x[:, :, h * E : (h + 1) * E] for h in range(num_heads)], axis=1)
        )

    source = linear("latent_projection", memory.numpy()) if latent_dim else memory.numpy()
    tensors = (
        split(linear("query_projection", query.numpy()), H),
        split(linear("key_projection", source), H_KV),
        split(linear("value_projection", source), H_KV),
    )
    num_heads, weights = by_loops(
        lambda h, q, keys, seen: softmax([q @ k / math.sqrt(E) for k in keys]), tensors, is_visible
    )
    merged = np.concatenate([num_heads[:, h].numpy() for h in range(H)], axis=-1)
    if gate:
        merged = merged * expit(linear("gate_projection", query.numpy()))
    actual = layer(query, memory, mask, need_weights=True)
    assert_close(actual.output, torch.from_numpy(linear("output_projection", merged)))
    assert_close(actual.weights, weights)
    assert_close(layer(query, memory, mask).output, actual.output)
