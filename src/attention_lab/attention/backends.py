"""Backends: ways to compute attention from a score, a normalizer, positions and a mask.

``eager`` is the reference: plain tensor operations, any axes, gives weights. The others are
faster where they can work at all; each says as data what it can do.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_lab.attention.heads import HeadMixing
from attention_lab.attention.masks import Causal, Everything, Mask
from attention_lab.attention.normalizers import Normalizer, Softmax
from attention_lab.attention.precision import wide
from attention_lab.attention.scores import DotProductFamily, Score


@dataclass(frozen=True)
class Axes:
    """What attention is made of, besides its inputs."""

    score: Score
    normalizer: Normalizer
    mixing: HeadMixing | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Problem:
    """One attention call: query (B, H, L, E), key (B, H_kv, S, E), value (B, H_kv, S, E_v)."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Mask | None
    axes: Axes
    #: Added to the logits, broadcastable to (B, H, L, S).
    bias: Tensor | None = None
    #: Position of the first query.
    start: int = 0
    #: Whether a bias may need a gradient; its requires_grad is not reliable under vmap.
    bias_needs_grad: bool = False

    @property
    def groups(self) -> int:
        """How many query heads share one key head."""
        return self.query.shape[1] // self.key.shape[1]

    def dense_mask(self) -> Tensor | None:
        """The mask as bool, broadcastable to (B, H, L, S); None if everything is visible."""
        if self.mask is None or isinstance(self.mask, Everything):
            return None
        batch, heads, queries, _ = self.query.shape
        keys, device = self.key.shape[2], self.query.device
        return self.mask.dense(batch, heads, queries, keys, device, self.start)


def repeat_heads(x: Tensor, groups: int) -> Tensor:
    """(B, H_kv · groups, S, E) from (B, H_kv, S, E): neighbouring query heads share one."""
    return x.repeat_interleave(groups, dim=1) if groups > 1 else x


def eager_weights(problem: Problem) -> Tensor:
    """Weights before dropout (B, H, L, S) in at least single precision, step by step.

    A query that may look at nothing gets zero weights, with zero gradient.
    """
    axes = problem.axes
    logits = wide(axes.score(problem.query, repeat_heads(problem.key, problem.groups)))
    if problem.bias is not None:
        logits = logits + problem.bias
    if axes.mixing is not None:
        logits = axes.mixing.mix_logits(logits)
    visible = problem.dense_mask()
    if visible is not None:
        # The lowest finite number, not -inf: a row without any key stays free of NaN, and the
        # second fill then makes its weights (and their gradient) exactly zero.
        logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
    # Over no keys at all there is no largest logit, and nothing to normalize.
    weights = axes.normalizer(logits, visible) if logits.shape[-1] else logits
    if visible is not None:
        weights = weights.masked_fill(~visible, 0.0)
    if axes.mixing is None:
        return weights
    # Masks may differ between heads, so mixing can give weight to a key that a head must not see.
    weights = axes.mixing.mix_weights(weights)
    return weights if visible is None else weights.masked_fill(~visible, 0.0)


def eager(problem: Problem) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, E_v) and weights before dropout (B, H, L, S)."""
    weights = eager_weights(problem)
    value = repeat_heads(problem.value, problem.groups)
    return F.dropout(weights, problem.axes.dropout).to(value.dtype) @ value, weights


def sdpa(problem: Problem) -> tuple[Tensor, None]:
    """Output (B, H, L, E_v) by PyTorch's fused scaled dot-product attention; no weights."""
    assert isinstance(problem.axes.score, DotProductFamily)
    query, key, scale = problem.axes.score.fold(problem.query, problem.key)
    visible, is_causal = None, False
    # SDPA's is_causal aligns both sequences at their first position, as our masks do. It must be a
    # bool, but start == 0 is symbolic while compiling, so this branches on it.
    if type(problem.mask) is Causal and problem.bias is None and problem.start == 0:
        is_causal = True
    else:
        visible = problem.dense_mask()
    if problem.bias is not None:
        visible = _additive(problem, visible)
    with _kernels(problem):
        output = F.scaled_dot_product_attention(
            query,
            key,
            problem.value,
            attn_mask=visible,
            dropout_p=problem.axes.dropout,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=bool(problem.groups > 1),
        )
    return output, None


def _kernels(problem: Problem) -> AbstractContextManager[None]:
    """Restrict SDPA to its math kernel on the CPU if a bias may need a gradient.

    PyTorch does so itself, but not under torch.func.vmap.
    """
    on_cpu = problem.query.device.type == "cpu"
    may_need_grad = problem.bias is not None and problem.bias_needs_grad
    if on_cpu and may_need_grad and torch.is_grad_enabled():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def flex(problem: Problem) -> tuple[Tensor, None]:
    """Output (B, H, L, E_v) by FlexAttention (Dong et al. 2024), compiled; no weights.

    The mask becomes a BlockMask, whose empty blocks are never computed.

    Raises:
        ValueError: on the CPU if gradients are asked for.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    assert isinstance(problem.axes.score, DotProductFamily)
    query, key, scale = problem.axes.score.fold(problem.query, problem.key)
    needs_gradient = torch.is_grad_enabled() and any(
        x.requires_grad for x in (query, key, problem.value)
    )
    if query.device.type == "cpu" and needs_gradient:
        raise ValueError("backend=flex only infers on the cpu; sdpa or eager trains there")
    batch, heads, queries, _ = query.shape
    if 0 in (queries, key.shape[2]):  # which FlexAttention cannot index
        return query.new_zeros(batch, heads, queries, problem.value.shape[3]), None
    mask, start, bias = problem.mask, problem.start, problem.bias
    block_mask = None
    if mask is not None and not isinstance(mask, Everything):
        visible = mask

        def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return visible(b, h, i + start, j)

        block_mask = create_block_mask(
            sees, batch, heads, queries, key.shape[2], device=str(query.device)
        )
    score_mod = None
    if bias is not None:
        table = bias.expand(batch, heads, queries, key.shape[2])

        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + table[b, h, i, j]

    output = _compiled_flex()(
        query,
        key,
        problem.value,
        score_mod=score_mod,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=problem.groups > 1,
    )
    return output, None


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _additive(problem: Problem, visible: Tensor | None) -> Tensor:
    """Bias and mask in one float tensor. SDPA gives zeros for a row of −∞."""
    assert problem.bias is not None
    bias = problem.bias.to(problem.query.dtype)
    while bias.ndim < 4:
        bias = bias.unsqueeze(0)
    return bias if visible is None else bias.masked_fill(~visible, -torch.inf)


@dataclass(frozen=True)
class Backend:
    """A way to compute attention, and what it can do."""

    name: str
    compute: Callable[[Problem], tuple[Tensor, Tensor | None]]
    scores: tuple[type, ...]
    normalizers: tuple[type, ...]
    #: The kinds of device on which it can train, if not on all. Everywhere it can infer.
    trains_on: tuple[str, ...] = ("cpu", "cuda", "mps")
    mixes_heads: bool = False
    drops_weights: bool = True
    #: Whether second derivatives are supported; if not, asking for them may raise.
    double_backward: bool = False

    def attend(self, problem: Problem, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        """Output (B, H, L, E_v) and, if asked for, weights (B, H, L, S).

        The output is the same either way. If the backend returns no weights, they are computed
        separately, in at least single precision.
        """
        output, weights = self.compute(problem)
        if not need_weights:
            return output, None
        return output, eager_weights(problem) if weights is None else weights

    def refusal(self, axes: Axes) -> str | None:
        """Why this backend cannot compute these axes; None if it can."""
        if not isinstance(axes.score, self.scores):
            return f"it cannot compute the score {type(axes.score).__name__}"
        if not isinstance(axes.normalizer, self.normalizers):
            return f"it cannot compute the normalizer {type(axes.normalizer).__name__}"
        if axes.mixing is not None and not self.mixes_heads:
            return "its heads cannot talk"
        if axes.dropout and not self.drops_weights:
            return f"it cannot drop weights (dropout={axes.dropout})"
        return None


EAGER = Backend("eager", eager, (Score,), (Normalizer,), mixes_heads=True, double_backward=True)
SDPA = Backend("sdpa", sdpa, (DotProductFamily,), (Softmax,))
FLEX = Backend(
    "flex",
    flex,
    (DotProductFamily,),
    (Softmax,),
    trains_on=("cuda",),
    drops_weights=False,
)

#: In order of preference: "auto" takes flex never, since eager can do everything.
BACKENDS = (SDPA, EAGER, FLEX)


def able_backends(axes: Axes) -> list[Backend]:
    """The backends that can compute these axes, in order of preference."""
    return [backend for backend in BACKENDS if backend.refusal(axes) is None]


def choose_backend(name: str, axes: Axes) -> Backend:
    """The backend called ``name``, or with "auto" the first of ``BACKENDS`` that can do it.

    Raises:
        ValueError: if there is no such backend or it cannot compute this attention; the message
            names the reason and what would work.
    """
    able = able_backends(axes)
    if name == "auto":
        return able[0]
    known = {backend.name: backend for backend in BACKENDS}
    if name not in known:
        raise ValueError(f"backend must be auto or one of {', '.join(known)}; got {name!r}")
    if refusal := known[name].refusal(axes):
        works = " or ".join(backend.name for backend in able)
        raise ValueError(f"backend={name} cannot be used: {refusal}; {works} works")
    return known[name]
