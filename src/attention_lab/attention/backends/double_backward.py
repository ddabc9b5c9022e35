"""Second derivatives of PyTorch's fused attention on the CPU, whose kernel has only first ones."""

import weakref
from typing import Any

import torch
from torch import Tensor

from attention_lab.attention.precision import masked_softmax, wide

#: The node of the graph that the CPU's kernel makes.
KERNEL = "ScaledDotProductFlashAttentionForCpuBackward0"


def allow_double_backward(
    output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> None:
    """Let the gradients of a call of SDPA have gradients, if the CPU's kernel computed it.

    If a backward pass is recorded, as with ``create_graph=True``, plain operations compute the
    gradients in place of the kernel. Other backward passes are left as they are.

    Args:
        output: the tensor that SDPA returned.
        query, key, value, scale, is_causal: its arguments, with a key head for each query head.
        mask: its float mask, -inf for hidden keys.
    """
    node = None if torch.compiler.is_compiling() else output.grad_fn
    if node is None or node.name() != KERNEL:
        return
    # The node keeps these tensors until a backward pass has used them. The hook must not keep them
    # for longer.
    arguments = [query, key, value] if mask is None else [query, key, value, mask]
    references = [weakref.ref(x) for x in arguments]

    def replace(grads: tuple[Any, ...], outer: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
        if not torch.is_grad_enabled():
            return None
        kept: list[Any] = [reference() for reference in references]
        if any(x is None for x in kept):
            return None
        ours = (*_gradients(outer[0], scale, is_causal, *kept), *grads[3:])
        return tuple(None if grad is None else new for grad, new in zip(grads, ours, strict=True))

    node.register_hook(replace)


def _gradients(
    outer: Tensor,
    scale: float,
    is_causal: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for query, key and value, by operations that can be differentiated again."""
    q, k, v, outer = wide(query), wide(key), wide(value), wide(outer)
    logits = (scale * q) @ k.mT
    visible = torch.ones_like(logits, dtype=torch.bool)
    if is_causal:
        visible = visible.tril()
    if mask is not None:
        visible = visible & (mask > -torch.inf)
        logits = logits + wide(mask).masked_fill(~visible, 0.0)
    weights = masked_softmax(logits, visible)
    slope = outer @ v.mT
    slope = scale * weights * (slope - (slope * weights).sum(-1, keepdim=True))
    grads = slope @ k, slope.mT @ q, weights.mT @ outer
    return grads[0].to(query.dtype), grads[1].to(key.dtype), grads[2].to(value.dtype)
