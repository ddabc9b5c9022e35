"""Backends: ways to compute attention from a score, a normalizer, positions and a mask.

``eager`` is the reference: plain tensor operations, for all parts, with weights. The others are
faster, but support fewer parts; the fields of :class:`Backend` state which.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_lab.attention.head_mixing import HeadMixing
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs, repeat_heads
from attention_lab.attention.masks import Causal, NoMask
from attention_lab.attention.normalizers import Normalizer, Softmax
from attention_lab.attention.precision import autocast_disabled, wide
from attention_lab.attention.scores import Additive, DotProductFamily, Score

#: The smallest head size of FlexAttention's kernels for CUDA.
SMALLEST_FLEX_HEAD = 16


@dataclass(frozen=True)
class AttentionSpec:
    """The parts that attention is computed from, besides its inputs."""

    score: Score
    normalizer: Normalizer
    mixing: HeadMixing | None = None
    dropout: float = 0.0
    #: Whether a bias may need a gradient; its requires_grad is not reliable under vmap.
    bias_needs_grad: bool = False


def eager_weights(inputs: AttentionInputs, spec: AttentionSpec) -> Tensor:
    """Weights before dropout (B, H, L, S) in at least single precision, step by step.

    A query without a visible key gets zero weights, with zero gradient.
    """
    logits = wide(spec.score(inputs.query, repeat_heads(inputs.key, inputs.groups)))
    return _weights(logits, inputs, spec)


def _weights(logits: Tensor, inputs: AttentionInputs, spec: AttentionSpec) -> Tensor:
    if inputs.bias is not None:
        logits = logits + inputs.bias
    if spec.mixing is not None:
        logits = spec.mixing.mix_logits(logits)
    visible = inputs.visible()
    if visible is not None:
        # The lowest finite number, not -inf: a row without any key stays free of NaN, and the
        # second fill then makes its weights (and their gradient) exactly zero.
        logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
    # Over no keys at all there is no largest logit, and nothing to normalize.
    weights = spec.normalizer(logits, visible) if logits.shape[-1] else logits
    if visible is not None:
        weights = weights.masked_fill(~visible, 0.0)
    if spec.mixing is None:
        return weights
    # Masks may differ between heads, so mixing can give weight to a key that is hidden from a head.
    weights = spec.mixing.mix_weights(weights)
    return weights if visible is None else weights.masked_fill(~visible, 0.0)


def eager(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, E_v) and weights before dropout (B, H, L, S)."""
    return _output(eager_weights(inputs, spec), inputs, spec)


def fused(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
    """Like :func:`eager`, with logits by an operator that keeps no hidden layers of all pairs."""
    assert isinstance(spec.score, Additive)
    if torch.compiler.is_exporting():  # an exported program should need no operator of ours
        return eager(inputs, spec)
    # Calling the module runs its forward hooks, by which record_logits gets the logits.
    logits = spec.score(inputs.query, repeat_heads(inputs.key, inputs.groups), fused=True)
    return _output(_weights(logits, inputs, spec), inputs, spec)


def _output(weights: Tensor, inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
    value = repeat_heads(inputs.value, inputs.groups)
    return F.dropout(weights, spec.dropout).to(value.dtype) @ value, weights


def sdpa(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, None]:
    """Output (B, H, L, E_v) by PyTorch's fused scaled dot-product attention; no weights."""
    assert isinstance(spec.score, DotProductFamily)
    if torch.compiler.is_exporting():
        # With torch 2.11, what SDPA does on CUDA to repeat heads fixes the exported length.
        inputs = inputs.repeat_heads()
    query, key, scale = spec.score.fold(inputs.query, inputs.key)
    value = _widened(inputs.value, query.shape[3]).to(query.dtype)  # one width for the CPU's kernel
    visible, is_causal = None, False
    # SDPA's is_causal aligns both sequences at their first position, as our masks do. It must be a
    # bool, but start == 0 is symbolic while compiling, so this branches on it.
    if type(inputs.mask) is Causal and inputs.bias is None and inputs.start == 0:
        is_causal = True
    else:
        visible = inputs.visible()
    if inputs.bias is not None:
        visible = _additive(inputs, visible, query.dtype)
    with _kernels(inputs, spec), autocast_disabled(query.device.type):
        output = F.scaled_dot_product_attention(
            query,
            key.to(query.dtype),
            value,
            attn_mask=visible,
            dropout_p=spec.dropout,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=bool(inputs.groups > 1),
        )
    return output[..., : inputs.value.shape[3]].to(inputs.value.dtype), None


def _kernels(inputs: AttentionInputs, spec: AttentionSpec) -> AbstractContextManager[None]:
    """Restrict SDPA to its math kernel on the CPU if a bias may need a gradient.

    PyTorch does so itself, but not under torch.func.vmap.
    """
    on_cpu = inputs.query.device.type == "cpu"
    may_need_grad = inputs.bias is not None and spec.bias_needs_grad
    if on_cpu and may_need_grad and torch.is_grad_enabled():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def flex(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, None]:
    """Output (B, H, L, E_v) by FlexAttention (Dong et al. 2024), compiled; no weights.

    The mask becomes a BlockMask, whose empty blocks are never computed.

    Raises:
        ValueError: on the CPU if gradients are asked for, and on CUDA in float64.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    assert isinstance(spec.score, DotProductFamily)
    query, key, scale = spec.score.fold(inputs.query, inputs.key)
    needs_gradient = torch.is_grad_enabled() and any(
        x.requires_grad for x in (query, key, inputs.value)
    )
    if query.device.type == "cpu" and needs_gradient:
        raise ValueError("backend=flex only infers on the cpu; sdpa or eager trains there")
    if query.device.type == "cuda" and query.dtype == torch.float64:
        raise ValueError("backend=flex cannot compute float64 on cuda; sdpa or eager can")
    batch, num_heads, queries, _ = query.shape
    if 0 in (queries, key.shape[2]):  # which FlexAttention cannot index
        return query.new_zeros(batch, num_heads, queries, inputs.value.shape[3]), None
    mask, start, bias = inputs.mask, inputs.start, inputs.bias
    block_mask = None
    if mask is not None and not isinstance(mask, NoMask):
        visible = mask

        def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return visible(b, h, i + start, j)

        block_mask = create_block_mask(
            mask_mod, batch, num_heads, queries, key.shape[2], device=str(query.device)
        )
    score_mod = None
    if bias is not None:
        table = bias.expand(batch, num_heads, queries, key.shape[2])

        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + table[b, h, i, j]

    # Each kind of mask is compiled for itself, with and without gradients, for one query and for
    # many. Beyond the default limit of 8, calls would silently run uncompiled.
    with torch._dynamo.config.patch(recompile_limit=64):
        output = _compiled_flex()(
            _widened(query, SMALLEST_FLEX_HEAD),
            _widened(key, SMALLEST_FLEX_HEAD).to(query.dtype),
            _widened(inputs.value, SMALLEST_FLEX_HEAD).to(query.dtype),
            score_mod=score_mod,
            block_mask=block_mask,
            scale=scale,
            enable_gqa=inputs.groups > 1,
        )
    return output[..., : inputs.value.shape[3]].to(inputs.value.dtype), None


def _widened(x: Tensor, width: int) -> Tensor:
    """(B, H, S, E) with E padded with zeros to at least ``width``."""
    missing = width - x.shape[3]
    return F.pad(x, (0, missing)) if missing > 0 else x


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _additive(inputs: AttentionInputs, visible: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Bias and mask in one float tensor. SDPA gives zeros for a row of −∞."""
    assert inputs.bias is not None
    bias = inputs.bias.to(dtype)
    while bias.ndim < 4:
        bias = bias.unsqueeze(0)
    return bias if visible is None else bias.masked_fill(~visible, -torch.inf)


@dataclass(frozen=True)
class Backend:
    """A way to compute attention, and what it can do."""

    name: str
    compute: Callable[[AttentionInputs, AttentionSpec], tuple[Tensor, Tensor | None]]
    scores: tuple[type, ...]
    normalizers: tuple[type, ...]
    #: The device types on which it can train. It can infer on all of them.
    trains_on: tuple[str, ...] = ("cpu", "cuda", "mps")
    mixes_heads: bool = False
    drops_weights: bool = True
    #: Whether second derivatives are supported; if not, asking for them may raise.
    double_backward: bool = False
    #: Growth of its memory, in place of that of all pairs.
    memory: str | None = "S·d"

    def attend(self, inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor | None]:
        """Output (B, H, L, E_v) and, if asked for, weights (B, H, L, S).

        The output is the same either way. If the backend returns no weights, they are computed
        separately, in at least single precision.
        """
        output, weights = self.compute(inputs, spec)
        if not inputs.need_weights:
            return output, None
        return output, eager_weights(inputs, spec) if weights is None else weights

    def describe(self, info: MechanismInfo, spec: AttentionSpec) -> MechanismInfo:
        """The data on a mechanism, once this backend computes it."""
        return replace(
            info,
            backends=tuple(backend.name for backend in able_backends(spec)),
            memory=self.memory or info.memory,
            double_backward=self.double_backward,
        )

    def refusal(self, spec: AttentionSpec) -> str | None:
        """Why this backend cannot compute this attention; None if it can."""
        if not isinstance(spec.score, self.scores):
            return f"it cannot compute the score {type(spec.score).__name__}"
        if not isinstance(spec.normalizer, self.normalizers):
            return f"it cannot compute the normalizer {type(spec.normalizer).__name__}"
        if spec.mixing is not None and not self.mixes_heads:
            return "it cannot mix heads (talking_heads=true)"
        if spec.dropout and not self.drops_weights:
            return f"it cannot drop weights (dropout={spec.dropout})"
        return None


EAGER = Backend(
    "eager",
    eager,
    (Score,),
    (Normalizer,),
    mixes_heads=True,
    double_backward=True,
    memory=None,
)
FUSED = Backend(
    "fused",
    fused,
    (Additive,),
    (Normalizer,),
    mixes_heads=True,
    double_backward=True,
    memory="L·S",
)
SDPA = Backend("sdpa", sdpa, (DotProductFamily,), (Softmax,))
FLEX = Backend(
    "flex",
    flex,
    (DotProductFamily,),
    (Softmax,),
    trains_on=("cuda",),
    drops_weights=False,
)

#: In order of preference. "auto" never takes flex, since eager can compute everything.
BACKENDS = (SDPA, FUSED, EAGER, FLEX)


def able_backends(spec: AttentionSpec) -> list[Backend]:
    """The backends that can compute this attention, in order of preference."""
    return [backend for backend in BACKENDS if backend.refusal(spec) is None]


def choose_backend(name: str, spec: AttentionSpec) -> Backend:
    """The backend called ``name``, or with "auto" the first of ``BACKENDS`` that can do it.

    Raises:
        ValueError: if there is no such backend or it cannot compute this attention; the message
            names the reason and what would work.
    """
    able = able_backends(spec)
    if name == "auto":
        return able[0]
    known = {backend.name: backend for backend in BACKENDS}
    if name not in known:
        raise ValueError(f"backend must be auto or one of {', '.join(known)}; got {name!r}")
    if refusal := known[name].refusal(spec):
        works = " or ".join(backend.name for backend in able)
        raise ValueError(f"backend={name} cannot be used: {refusal}; {works} works")
    return known[name]
