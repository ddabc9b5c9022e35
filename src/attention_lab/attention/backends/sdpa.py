"""The SDPA backend: PyTorch's fused scaled dot-product attention."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_lab.attention.backends.double_backward import allow_double_backward
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.backends.tiled import (
    attend_in_tiles,
    outside_graphs_on_cpu,
    tiles_are_faster,
)
from attention_lab.attention.backends.tracing import is_tracing
from attention_lab.attention.inputs import AttentionInputs, pad_head_dim, repeat_heads
from attention_lab.attention.masks import Causal
from attention_lab.attention.normalizers import (
    Normalizer,
    Softmax,
    SoftmaxPlusOne,
    TemperedSoftmax,
)
from attention_lab.attention.precision import autocast_disabled, wide
from attention_lab.attention.scores.base import DotProductFamily

#: The fewest and the most pairs of an unmasked call on the CPU, and its most queries, for which
#: separate matrix products are faster than PyTorch's kernel.
FEWEST_BY_PRODUCTS, MOST_BY_PRODUCTS, MOST_QUERIES_BY_PRODUCTS = 1 << 14, 1 << 20, 128


def sdpa(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, None]:
    """Output (B, H, L, E_v) by PyTorch's fused scaled dot-product attention; no weights."""
    assert isinstance(spec.score, DotProductFamily)
    if torch.compiler.is_exporting():
        # With torch 2.11, what SDPA does on CUDA to repeat heads fixes the exported length.
        inputs = inputs.repeat_heads()
    query, key, scale = spec.score.fold(inputs.query, inputs.key)
    normalizer = spec.normalizer
    if isinstance(normalizer, TemperedSoftmax):
        inverse, normalizer = normalizer.inverse(), Softmax()
        query = query * inverse.to(query.dtype)
        inputs = inputs if inputs.bias is None else replace(inputs, bias=inputs.bias * inverse)
    if _products_are_faster(query, inputs, spec):
        return _by_products(inputs, (query, key, scale), normalizer), None
    if _learns_bias(inputs, spec) and not spec.dropout and tiles_are_faster(inputs):
        # Of PyTorch's kernels for the CPU, only the slow one has the gradient of a bias.
        return attend_in_tiles(inputs, (query, key, scale), normalizer), None
    return _by_kernel(inputs, (query, key, scale), normalizer, spec), None


def _by_products(
    inputs: AttentionInputs, folded: tuple[Tensor, Tensor, float], normalizer: Normalizer
) -> Tensor:
    """Output (B, H, L, E_v) without a mask, by two matrix products."""
    query, key, scale = folded
    key, value = (repeat_heads(x.to(query.dtype), inputs.groups) for x in (key, inputs.value))
    with autocast_disabled(query.device.type):
        output = normalizer((scale * query) @ key.mT) @ value
    return output.to(inputs.value.dtype)


def _by_kernel(
    inputs: AttentionInputs,
    folded: tuple[Tensor, Tensor, float],
    normalizer: Normalizer,
    spec: AttentionSpec,
) -> Tensor:
    """Output (B, H, L, E_v) by the kernel that PyTorch chooses."""
    query, key, value, scale = _padded(*folded, inputs.value)
    on_cpu, width = query.device.type == "cpu", inputs.value.shape[3]
    # While compiling, SDPA's gradients are compiled, too. A trace must not depend on the grad mode.
    in_graph = torch.compiler.is_compiling() or is_tracing()
    may_differentiate = torch.is_grad_enabled() and not in_graph
    groups, mask, is_causal = inputs.groups, None, False
    # SDPA's is_causal aligns both sequences at their first position, as our masks do. It must be a
    # bool, but start == 0 is symbolic while compiling, so this branches on it.
    if type(inputs.mask) is Causal and inputs.bias is None and inputs.start == 0:
        is_causal = True
    else:
        mask = _mask(inputs, query.dtype, as_float=on_cpu and may_differentiate)
    if on_cpu and may_differentiate:
        # SDPA does the same, but second derivatives need the tensors that its kernel gets.
        key, value, groups = repeat_heads(key, groups), repeat_heads(value, groups), 1
    is_grouped = bool(groups > 1)
    has_null_key = isinstance(normalizer, SoftmaxPlusOne)
    if has_null_key:
        query, key, value, mask = _with_null_key(query, key, value, mask, is_causal)
    with _kernels(inputs, spec), autocast_disabled(query.device.type):
        output = F.scaled_dot_product_attention(
            query, key, value, mask, spec.dropout, is_causal, scale=scale, enable_gqa=is_grouped
        )
    allow_double_backward(output, query, key, value, scale, mask, is_causal)
    if has_null_key and is_causal:
        output = output[:, :, 1:]
    if output.shape[3] > width:  # the gradient of any slice is a copy
        output = output[..., :width]
    return output.to(inputs.value.dtype)


def _products_are_faster(query: Tensor, inputs: AttentionInputs, spec: AttentionSpec) -> bool:
    """Whether separate matrix products are faster than PyTorch's kernel: small calls on the CPU."""
    if inputs.is_masked or inputs.bias is not None or spec.dropout:
        return False
    # Logits in half precision could overflow, which those of the kernel do not. In autocast, the
    # score may have mapped the query to half precision.
    if not outside_graphs_on_cpu(inputs) or wide(query) is not query:
        return False
    is_short = inputs.query.shape[2] <= MOST_QUERIES_BY_PRODUCTS
    return is_short and FEWEST_BY_PRODUCTS <= inputs.pairs <= MOST_BY_PRODUCTS


def _padded(
    query: Tensor, key: Tensor, scale: float, value: Tensor
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Query, key and value of one data type, and on the CPU of one width; and the scale."""
    if query.device.type == "cpu":
        # Otherwise PyTorch uses its slow math kernel.
        query, key = pad_head_dim(query, value.shape[3]), pad_head_dim(key, value.shape[3])
    value = pad_head_dim(value, query.shape[3])
    return query, key.to(query.dtype), value.to(query.dtype), scale


def _learns_bias(inputs: AttentionInputs, spec: AttentionSpec) -> bool:
    """Whether a bias may need a gradient."""
    return inputs.bias is not None and spec.bias_needs_grad and torch.is_grad_enabled()


def _kernels(inputs: AttentionInputs, spec: AttentionSpec) -> AbstractContextManager[None]:
    """Restrict SDPA to its math kernel on the CPU if a bias may need a gradient.

    PyTorch does so itself, but not under torch.func.vmap.
    """
    if inputs.query.device.type == "cpu" and _learns_bias(inputs, spec):
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _with_null_key(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """One more key, the first one, with logit 0 and value 0: the 1 of softmax-plus-one.

    A causal kernel needs one more query, too, whose output is to be cut off.
    """
    if mask is not None:
        shown = True if mask.dtype == torch.bool else 0.0
        mask = F.pad(mask.expand(*mask.shape[:-1], key.shape[2]), (1, 0), value=shown)
    key, value = F.pad(key, (0, 0, 1, 0)), F.pad(value, (0, 0, 1, 0))
    return F.pad(query, (0, 0, 1, 0)) if is_causal else query, key, value, mask


def _mask(inputs: AttentionInputs, dtype: torch.dtype, as_float: bool) -> Tensor | None:
    """Bias and mask in one tensor. SDPA gives zeros for a row of −∞."""
    visible, bias = inputs.visible(), inputs.bias
    if bias is None:
        if visible is None or not as_float:
            return visible
        bias = torch.zeros((), device=visible.device)
    bias = bias.to(dtype)
    while bias.ndim < 4:
        bias = bias.unsqueeze(0)
    return bias if visible is None else bias.masked_fill(~visible, -torch.inf)
