"""The fused backend: additive attention without hidden layers of all pairs of positions."""

import torch
from torch import Tensor

from attention_lab.attention.backends.reference import (
    eager,
    output_and_weights,
    weights_from_logits,
)
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.inputs import AttentionInputs, repeat_heads
from attention_lab.attention.scores.additive import Additive


def fused(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
    """Like :func:`eager`, with logits by an operator that keeps no hidden layers of all pairs."""
    assert isinstance(spec.score, Additive)
    if torch.compiler.is_exporting():  # an exported program should need no operator of ours
        return eager(inputs, spec)
    logits = spec.logits(inputs.query, repeat_heads(inputs.key, inputs.groups), fused=True)
    return output_and_weights(weights_from_logits(logits, inputs, spec), inputs, spec)
