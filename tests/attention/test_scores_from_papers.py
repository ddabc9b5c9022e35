"""Scores against their papers, by loops over single queries and keys in float64 NumPy."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.testing import assert_close

from attention_lab.attention import (
    L2,
    Additive,
    Biaffine,
    Concat,
    Cosine,
    DotProduct,
    General,
    Location,
    ScaledDotProduct,
    Score,
    ScoredAttention,
    Softmax,
    SoftmaxPlusOne,
    Uniform,
)
from attention_lab.attention.backends.reference import eager
from attention_lab.attention.backends.sdpa import sdpa
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.inputs import AttentionInputs

Array = NDArray[np.float64]
Parameters = dict[str, Array]
Compare = Callable[[Parameters, int, Array, Array, int], float]  # (…, head, q, k, j) → logit


def luong_dot(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Luong et al. 2015, eq. 8: h_tᵀ h̄_s."""
    return float(q @ k)


def vaswani(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Vaswani et al. 2017, eq. 1: q · k / √d_k."""
    return float(q @ k) / math.sqrt(len(k))


def luong_general(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Luong et al. 2015, eq. 8: h_tᵀ W_a h̄_s."""
    return float(q @ p["weight"][head] @ k)


def bahdanau(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """Bahdanau et al. 2015, §A.1.2: v_aᵀ tanh(W_a s + U_a h)."""
    total = 0.0
    for a, v in enumerate(p["vector"][head]):
        total += v * math.tanh(q @ p["query_weight"][head][:, a] + k @ p["key_weight"][head][:, a])
    return total


def nothing(p: Parameters, head: int, q: Array, k: Array, j: int) -> float:
    """The mean of what is visible."""
    return 0.0


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


@pytest.mark.parametrize("compute", [eager, sdpa])
def test_distances_far_from_the_origin_are_accurate(compute: Callable[..., Any]) -> None:
    spec = AttentionSpec(L2(2, 16), Softmax())
    query, key, value = torch.randn(3, 3, 2, 9, 16)
    inputs = AttentionInputs(query + 1000, key + 1000, value)
    exact = AttentionInputs(*(x.double() for x in (inputs.query, inputs.key, inputs.value)))
    assert_close(compute(inputs, spec)[0].double(), compute(exact, spec)[0], rtol=0, atol=1e-5)


SCORES: dict[type[Score], Compare] = {
    DotProduct: luong_dot,
    ScaledDotProduct: vaswani,
    General: luong_general,
    Additive: bahdanau,
    Uniform: nothing,
    Concat: luong_concat,
    Biaffine: dozat,
    Cosine: henry,
    L2: kim,
    Location: luong_location,
}
WIDER = {partial(Additive, hidden_dim=7): bahdanau, partial(Concat, hidden_dim=1): luong_concat}


@pytest.mark.parametrize(("make", "formula"), [*SCORES.items(), *WIDER.items()])
def test_scores(make: Callable[..., Score], formula: Compare) -> None:
    score = make(3, 4).double()
    for parameter in score.parameters():  # so that no bias is 0 and no two gains are equal
        nn.init.normal_(parameter)
    query, key = torch.randn(2, 3, 5, 4).double(), torch.randn(2, 3, 6, 4).double()
    logits = score(query, key)
    assert logits.shape == (2, 3, 5, 6)
    parameters = {name: p.detach().numpy() for name, p in score.named_parameters()}
    q, k = query.numpy(), key.numpy()
    for b, h, i, j in np.ndindex(2, 3, 5, 6):
        expected = formula(parameters, h, q[b, h, i], k[b, h, j], j)
        assert logits[b, h, i, j].item() == pytest.approx(expected, abs=1e-12)


def test_additive_hidden_layer_is_as_wide_as_the_head() -> None:
    assert Additive(2, 3).vector.shape == (2, 3)
    assert Additive(2, 3, hidden_dim=7).query_weight.shape == (2, 3, 7)


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


def test_a_gain_may_be_a_whole_number() -> None:
    assert Cosine(2, 4, gain=3).gain.tolist() == [[[3.0]], [[3.0]]]


def test_the_nearest_key_of_all_is_the_query_itself_in_half_precision() -> None:
    x = 3 * torch.randn(1, 2, 5, 64, dtype=torch.bfloat16)
    logits = L2(2, 64)(x, x)
    assert logits.max() == 0
    assert torch.equal(logits.argmax(-1)[0, 0], torch.arange(5))


def test_sdpa_refuses_softmax_plus_one_of_distances() -> None:
    """SDPA's logits of L2 lack |q|², which the 1 of softmax-plus-one does not cancel."""
    plus_one = partial(ScoredAttention, 8, score=L2, normalizer=SoftmaxPlusOne)
    assert plus_one().backend.name == "eager"
    with pytest.raises(ValueError, match=r"backend=sdpa cannot be used: .* L2 lack"):
        plus_one(backend="sdpa")
