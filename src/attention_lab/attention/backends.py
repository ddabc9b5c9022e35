"""Backends: ways to compute softmax-like attention from a score, a normalizer and a mask.

``eager`` is the reference: plain tensor operations, any score, gives weights. The others are
faster where they can work at all; each says as data what it can do.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.attention.masks import Causal, Mask
from attention_lab.attention.normalizers import Normalizer, Softmax
from attention_lab.attention.scores import DotProductFamily, Score


@dataclass(frozen=True)
class Problem:
    """One attention call: query (B, H, L, E), key (B, H_kv, S, E), value (B, H_kv, S, E_v)."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Mask | None
    score: Score
    normalizer: Normalizer
    dropout: float

    @property
    def groups(self) -> int:
        """How many query heads share one key head."""
        return self.query.shape[1] // self.key.shape[1]

    def dense_mask(self) -> Tensor | None:
        """The mask as bool, broadcastable to (B, H, L, S); None if everything is visible."""
        if self.mask is None:
            return None
        batch, heads, queries, _ = self.query.shape
        return self.mask.dense(batch, heads, queries, self.key.shape[2], self.query.device)


def eager(problem: Problem) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, E_v) and weights before dropout (B, H, L, S), step by step.

    A query that may look at nothing gets zero weights, a zero output and a zero gradient.
    """
    key, value = problem.key, problem.value
    if problem.groups > 1:
        key = key.repeat_interleave(problem.groups, dim=1)
        value = value.repeat_interleave(problem.groups, dim=1)
    logits = problem.score(problem.query, key)
    visible = problem.dense_mask()
    if visible is not None:
        # The lowest finite number, not -inf: a row without any key stays free of NaN, and the
        # second fill then makes its weights (and their gradient) exactly zero.
        logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
    weights = problem.normalizer(logits)
    if visible is not None:
        weights = weights.masked_fill(~visible, 0.0)
    return F.dropout(weights, problem.dropout) @ value, weights


def sdpa(problem: Problem) -> tuple[Tensor, None]:
    """Output (B, H, L, E_v) by PyTorch's fused scaled dot-product attention; no weights."""
    assert isinstance(problem.score, DotProductFamily)
    query, scale = problem.score.fold(problem.query)
    # SDPA's is_causal aligns both sequences at their first position, as our masks do.
    causal_only = type(problem.mask) is Causal
    output = F.scaled_dot_product_attention(
        query,
        problem.key,
        problem.value,
        attn_mask=None if causal_only else problem.dense_mask(),
        dropout_p=problem.dropout,
        is_causal=causal_only,
        scale=scale,
        enable_gqa=problem.groups > 1,
    )
    return output, None


@dataclass(frozen=True)
class Backend:
    """A way to compute attention, and what it can do."""

    name: str
    compute: Callable[[Problem], tuple[Tensor, Tensor | None]]
    scores: tuple[type, ...]
    normalizers: tuple[type, ...]
    gives_weights: bool

    def refusal(self, score: Score, normalizer: Normalizer) -> str | None:
        """Why this backend cannot compute these axes; None if it can."""
        if not isinstance(score, self.scores):
            return f"it cannot compute the score {type(score).__name__}"
        if not isinstance(normalizer, self.normalizers):
            return f"it cannot compute the normalizer {type(normalizer).__name__}"
        return None


EAGER = Backend("eager", eager, (Score,), (Normalizer,), gives_weights=True)
SDPA = Backend("sdpa", sdpa, (DotProductFamily,), (Softmax,), gives_weights=False)

#: In order of preference.
BACKENDS = (SDPA, EAGER)


def choose_backend(name: str, score: Score, normalizer: Normalizer) -> Backend:
    """The backend called ``name``, or with "auto" the first of ``BACKENDS`` that can do it.

    Raises:
        ValueError: if there is no such backend or it cannot compute this attention; the message
            names the reason and what would work.
    """
    able = [backend for backend in BACKENDS if not backend.refusal(score, normalizer)]
    if name == "auto":
        return able[0]
    known = {backend.name: backend for backend in BACKENDS}
    if name not in known:
        raise ValueError(f"backend must be auto or one of {', '.join(known)}; got {name!r}")
    if refusal := known[name].refusal(score, normalizer):
        works = " or ".join(backend.name for backend in able)
        raise ValueError(f"backend={name} cannot be used: {refusal}; {works} works")
    return known[name]
