"""The flex backend: FlexAttention (Dong et al. 2024), compiled."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.backends.validation import check_flex
from attention_lab.attention.inputs import AttentionInputs, pad_head_dim
from attention_lab.attention.masks import Mask, NoMask
from attention_lab.attention.scores.base import DotProductFamily

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

#: The smallest head size of FlexAttention's kernels for CUDA.
SMALLEST_HEAD = 16


def flex(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, None]:
    """Output (B, H, L, E_v) by FlexAttention (Dong et al. 2024), compiled; no weights.

    The mask becomes a BlockMask, whose empty blocks are never computed.

    Raises:
        ValueError: on the CPU if gradients are asked for, and on CUDA in float64.
    """
    assert isinstance(spec.score, DotProductFamily)
    query, key, scale = spec.score.fold(inputs.query, inputs.key)
    check_flex(inputs, (query, key))
    batch, num_heads, queries, _ = query.shape
    if 0 in (queries, key.shape[2]):  # which FlexAttention cannot index
        return query.new_zeros(batch, num_heads, queries, inputs.value.shape[3]), None
    score_mod = None
    if inputs.bias is not None:
        table = inputs.bias.expand(batch, num_heads, queries, key.shape[2])

        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + table[b, h, i, j]

    # Each kind of mask is compiled for itself, with and without gradients, for one query and for
    # many. Beyond the default limit of 8, calls would silently run uncompiled.
    with torch._dynamo.config.patch(recompile_limit=64):
        output = _compiled_flex()(
            pad_head_dim(query, SMALLEST_HEAD),
            pad_head_dim(key, SMALLEST_HEAD).to(query.dtype),
            pad_head_dim(inputs.value, SMALLEST_HEAD).to(query.dtype),
            score_mod=score_mod,
            block_mask=_block_mask(inputs),
            scale=scale,
            enable_gqa=inputs.groups > 1,
        )
    return output[..., : inputs.value.shape[3]].to(inputs.value.dtype), None


def _block_mask(inputs: AttentionInputs) -> "BlockMask | None":
    """The mask in FlexAttention's form; None if every key is visible."""
    from torch.nn.attention.flex_attention import create_block_mask

    visible, start = inputs.mask, inputs.start
    if visible is None or isinstance(visible, NoMask):
        return None
    mask: Mask = visible

    def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return mask(b, h, i + start, j)

    batch, num_heads, queries, _ = inputs.query.shape
    keys, device = inputs.key.shape[2], str(inputs.device)
    return create_block_mask(mask_mod, batch, num_heads, queries, keys, device=device)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
