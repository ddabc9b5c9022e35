"""The fused backend: additive attention without hidden layers of all pairs of positions."""

from dataclasses import replace

import torch
from torch import Tensor

from attention_lab.attention.backends.reference import (
    eager,
    output_and_weights,
    weights_from_logits,
)
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.backends.triton.additive import additive_attention
from attention_lab.attention.backends.triton.mask_bands import band, beside_band
from attention_lab.attention.backends.validation import triton_computes
from attention_lab.attention.inputs import AttentionInputs, repeat_heads
from attention_lab.attention.masks import NoMask
from attention_lab.attention.scores.additive import Additive


def fused(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor | None]:
    """Output (B, H, L, E_v), and weights (B, H, L, S) if they are asked for or computed anyway.

    A kernel in Triton needs memory linear in the lengths. Otherwise logits of all pairs are
    computed, by an operator that keeps no hidden layers of all pairs.
    """
    assert isinstance(spec.score, Additive)
    if torch.compiler.is_exporting():  # an exported program should need no operator of ours
        return eager(inputs, spec)
    if triton_computes(inputs, spec):
        output = _by_triton(inputs, spec.score, spec.dropout)
        return output, _weights(inputs, spec) if inputs.need_weights else None
    return output_and_weights(_weights(inputs, spec), inputs, spec)


def _weights(inputs: AttentionInputs, spec: AttentionSpec) -> Tensor:
    logits = spec.logits(inputs, fused=True)
    return weights_from_logits(logits, inputs, spec)


def _by_triton(inputs: AttentionInputs, score: Additive, dropout: float) -> Tensor:
    mask = NoMask() if inputs.mask is None else inputs.mask
    visible = replace(inputs, mask=beside_band(mask)).visible()
    key = repeat_heads(inputs.key, inputs.groups)
    query, key = score.project(inputs.query, key, inputs.keys_are_mapped)
    batch, limits = query.shape[0], band(mask, inputs.start)
    vector = score.vector.expand(batch, *score.vector.shape)
    # Drawn on the device, so that nothing waits for it.
    seed = torch.randint(2**62, (batch,), device=query.device) if dropout else None
    return additive_attention(query, key, inputs.value, vector, visible, seed, *limits, dropout)
