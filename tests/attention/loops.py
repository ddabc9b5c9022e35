"""Attention by loops over single queries and keys, in float64 NumPy."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor
from torch.testing import assert_close

from attention_lab.attention import (
    AttentionInputs,
    AttentionLayer,
    Causal,
    Mask,
    Padding,
    PrefixLM,
    SlidingWindow,
)

Array = NDArray[np.float64]
IsVisible = Callable[
    [int, int, int, int], bool
]  # (batch, head, query, key) → whether the key is visible
Weigh = Callable[[int, Array, Array, list[int]], Array]
H, H_KV, E = 4, 2, 6  # sizes of every example, with B = 2 and E_v = E
SHAPES = [(7, 7), (4, 9), (9, 4), (1, 5)]  # queries, keys
MASKS = ["none", "causal", "padding", "causal-padding", "padding-causal", "window", "mixed"]


def masked(name: str, keys: int) -> tuple[Mask | None, IsVisible]:
    """A mask and what it should let one see; the padding hides sequence 1's first two keys."""
    valid = torch.ones(2, keys, dtype=torch.bool)
    valid[0, -1] = False
    valid[1, :2] = False
    real = valid.tolist()
    cases: dict[str, tuple[Mask | None, IsVisible]] = {
        "none": (None, lambda b, h, i, j: True),
        "causal": (Causal(), lambda b, h, i, j: j <= i),
        "padding": (Padding(valid), lambda b, h, i, j: real[b][j]),
        "causal-padding": (Causal() & Padding(valid), lambda b, h, i, j: j <= i and real[b][j]),
        "padding-causal": (Padding(valid) & Causal(), lambda b, h, i, j: j <= i and real[b][j]),
        "window": (SlidingWindow(3), lambda b, h, i, j: i - 3 < j <= i),
        "mixed": (
            PrefixLM(2) & Padding(valid),
            lambda b, h, i, j: (j < 2 or j <= i) and real[b][j],
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
    weigh: Weigh,
    tensors: tuple[Tensor, Tensor, Tensor],
    is_visible: IsVisible,
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
        seen = [j for j in range(key.shape[2]) if is_visible(b, h, start + i, j)]
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
        alone, nothing = layer.attend(AttentionInputs(*tensors, mask, False, start))
        output, weights = layer.attend(AttentionInputs(*tensors, mask, True, start))
    assert nothing is None
    for actual, wanted in [(alone, expected[0]), (output, expected[0]), (weights, expected[1])]:
        assert_close(actual, wanted, rtol=0, atol=tolerance)
