"""Nyström attention against the paper's formulas, by loops and an exact pseudo-inverse."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor
from torch.testing import assert_close

from attention_lab.attention import (
    AttentionInputs,
    Causal,
    NystromAttention,
    Padding,
    ScaledDotProduct,
    ScoredAttention,
    Softmax,
)

Array = NDArray[np.float64]
H, H_KV, E = 4, 2, 6
MANY = 40  # iterations, after which the pseudo-inverse is exact


def make(**options: int) -> NystromAttention:
    return NystromAttention(H * E, num_heads=H, num_kv_heads=H_KV, **options).double()


def triple(batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    num_heads = (H, H_KV, H_KV)
    query, key, value = (torch.randn(batch, h, length, E, dtype=torch.float64) for h in num_heads)
    return 2 * query, 2 * key, value


def landmarks(x: Array, count: int) -> Array:
    """Xiong et al. 2021, §3.2: means of segments, of which the first ones may be longer."""
    bounds = [math.ceil(segment * len(x) / count) for segment in range(count + 1)]
    return np.array([x[first:end].mean(0) for first, end in pairwise(bounds)])


def xiong(query: Array, key: Array, count: int) -> Array:
    """Weights of one head over real positions only: eq. 13, with NumPy's pseudo-inverse."""
    count, scale = min(count, len(key)), math.sqrt(query.shape[1])
    q, k = landmarks(query, count), landmarks(key, count)
    first, middle, last = (softmax(pair / scale, -1) for pair in (query @ k.T, q @ k.T, q @ key.T))
    return first @ np.linalg.pinv(middle) @ last


@pytest.mark.parametrize("length", [1, 4, 7, 8, 13])
@pytest.mark.parametrize("padded", [False, True])
def test_nystrom(length: int, padded: bool) -> None:
    query, key, value = triple(2, length)
    valid = torch.ones(2, length, dtype=torch.bool)
    if padded:
        valid[0, 1::3] = False
        valid[1, : length // 2] = False
    weights = torch.zeros(2, H, length, length, dtype=torch.float64)
    for b, h in np.ndindex(2, H):
        real = valid[b].nonzero().flatten()
        q, k = query[b, h, real].numpy(), key[b, h // 2, real].numpy()
        weights[b, h, real[:, None], real] = torch.from_numpy(xiong(q, k, 4))
    output = weights @ value.repeat_interleave(2, dim=1)
    layer, mask = make(num_landmarks=4, pinv_iterations=MANY), Padding(valid) if padded else None
    alone, nothing = layer.attend(AttentionInputs(query, key, value, mask, False))
    with_weights, its_weights = layer.attend(AttentionInputs(query, key, value, mask, True))
    assert nothing is None
    assert its_weights is not None
    rows = valid[:, None, :, None]  # what a padded position asks for is nobody's
    for actual, expected in ((alone, output), (with_weights, output), (its_weights, weights)):
        assert_close(actual * rows, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("landmarks", [6, 32])
def test_with_a_landmark_for_each_position_it_is_softmax_attention(landmarks: int) -> None:
    nystrom = make(num_landmarks=landmarks, pinv_iterations=MANY)
    plain = ScoredAttention(
        H * E, score=ScaledDotProduct, normalizer=Softmax, num_heads=H, num_kv_heads=H_KV
    ).double()
    plain.load_state_dict(nystrom.state_dict(), strict=False)
    x = torch.randn(3, 6, H * E, dtype=torch.float64)
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[0, :2] = valid[1, 3] = valid[2, 1:] = False
    actual, expected = (
        layer(x, mask=Padding(valid), need_weights=True) for layer in (nystrom, plain)
    )
    assert_close(tuple(actual), tuple(expected), rtol=0, atol=1e-8)


def test_the_iteration_is_the_papers() -> None:
    """Two steps of lemma 1 from Aᵀ / (‖A‖₁ ‖A‖∞), each head alone."""
    query, key, value = triple(2, 3)
    _, weights = make(num_landmarks=3, pinv_iterations=2).attend(
        AttentionInputs(query, key, value, None, True)
    )
    assert weights is not None
    identity = np.eye(3)
    for b, h in np.ndindex(2, H):
        a = softmax((query[b, h] @ key[b, h // 2].T / math.sqrt(E)).numpy(), -1)
        z = a.T / np.linalg.norm(a, 1) / np.linalg.norm(a, np.inf)
        for _ in range(2):
            az = a @ z
            z = z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az))) / 4
        assert_close(weights[b, h], torch.from_numpy(a @ z @ a))


@pytest.mark.parametrize("where", [slice(0, 9), slice(5, 14), slice(2, 11)])
def test_padding_changes_nothing(where: slice) -> None:
    """On the right, on the left, or on both sides; also for the gradient."""
    layer = make(num_landmarks=4)
    x = torch.randn(1, 9, H * E, dtype=torch.float64, requires_grad=True)
    padded = torch.randn(1, 14, H * E, dtype=torch.float64)
    padded[:, where] = x
    valid = torch.zeros(1, 14, dtype=torch.bool)
    valid[:, where] = True
    alone, among = layer(x).output, layer(padded, mask=Padding(valid)).output[:, where]
    assert_close(among, alone)
    direction = torch.randn_like(alone)
    gradients = [torch.autograd.grad((o * direction).sum(), x)[0] for o in (among, alone)]
    assert_close(*gradients)


def test_examples_of_a_batch_are_alone() -> None:
    """Others may have sharper weights, of other norms, and no real positions at all."""
    layer = make(num_landmarks=4, pinv_iterations=2)
    x = torch.randn(3, 9, H * E, dtype=torch.float64)
    x[1] *= 100
    valid = torch.ones(3, 9, dtype=torch.bool)
    valid[2] = False
    together = layer(x, mask=Padding(valid)).output
    assert_close(together[:1], layer(x[:1]).output)
    assert_close(together[1:2], layer(x[1:2]).output)
    assert not together[2].any()


def test_memory_is_linear_unless_weights_are_asked_for() -> None:
    """Those are made beside the output, which keeps nothing more for its gradient."""
    layer, length = make(num_landmarks=4), 200
    sizes: list[int] = []

    def saved(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    for need_weights in (False, True):
        inputs = [x.requires_grad_() for x in triple(1, length)]
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            _, weights = layer.attend(AttentionInputs(*inputs, None, need_weights))
            assert max(sizes) <= H * length * E
            if weights is not None:
                weights.square()
    assert max(sizes) == H * length * length, "nothing is counted"


def test_it_stays_within_one_sequence() -> None:
    layer, x = make(), torch.randn(2, 5, H * E, dtype=torch.float64)
    assert_close(layer(x, x).output, layer(x).output)
    with pytest.raises(ValueError, match="NystromAttention attends within one sequence only"):
        layer(x, x.clone())
    query, key, value = triple(2, 5)
    with pytest.raises(ValueError, match="as many queries as keys, got 4 and 5"):
        layer.attend(AttentionInputs(query[:, :, :4], key, value, None, False))
    with pytest.raises(ValueError, match="kdim must be embed_dim=8, got 6"):
        NystromAttention(8, 6)
    with pytest.raises(ValueError, match=r"padding, but cannot use Causal\(\)"):
        layer(x, mask=Causal())
    with pytest.raises(ValueError, match="num_landmarks must be at least 1, got 0"):
        NystromAttention(8, num_landmarks=0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        NystromAttention(8, pinv_iterations=0)
    with pytest.raises(ValueError, match=r"padding, but cannot use Causal\(\)"):
        NystromAttention(8, mask=Causal())
