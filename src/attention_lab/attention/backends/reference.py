"""The eager backend: plain tensor operations, for all parts, with weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.inputs import AttentionInputs, repeat_heads
from attention_lab.attention.normalizers import Normalizer
from attention_lab.attention.precision import wide


def eager(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, E_v) and weights before dropout (B, H, L, S)."""
    return output_and_weights(eager_weights(inputs, spec), inputs, spec)


def eager_weights(inputs: AttentionInputs, spec: AttentionSpec) -> Tensor:
    """Weights before dropout (B, H, L, S) in at least single precision, step by step.

    A query without a visible key gets zero weights, with zero gradient.
    """
    logits = wide(spec.logits(inputs))
    return weights_from_logits(logits, inputs, spec)


def weights_from_logits(logits: Tensor, inputs: AttentionInputs, spec: AttentionSpec) -> Tensor:
    """Weights before dropout (B, H, L, S) from the score's logits (B, H, L, S)."""
    if inputs.bias is not None:
        logits = logits + inputs.bias
    if spec.mixing is not None:
        logits = spec.mixing.mix_logits(logits)
    visible = inputs.visible()
    weights = masked_weights(logits, visible, spec.normalizer)
    if spec.mixing is None:
        return weights
    # Masks may differ between heads, so mixing can give weight to a key that is hidden from a head.
    weights = spec.mixing.mix_weights(weights)
    return weights if visible is None else weights.masked_fill(~visible, 0.0)


def masked_weights(logits: Tensor, visible: Tensor | None, normalizer: Normalizer) -> Tensor:
    """Weights (B, H, L, S) of logits; keys that are not visible have weight 0."""
    if visible is not None:
        # The lowest finite number, not -inf: a row without any key stays free of NaN, and the
        # second fill then makes its weights (and their gradient) exactly zero.
        logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
    # Over no keys at all there is no largest logit, and nothing to normalize.
    weights: Tensor = normalizer(logits, visible) if logits.shape[-1] else logits
    return weights if visible is None else weights.masked_fill(~visible, 0.0)


def output_and_weights(
    weights: Tensor, inputs: AttentionInputs, spec: AttentionSpec
) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, E_v), with dropout of weights, and the weights as given."""
    value = repeat_heads(inputs.value, inputs.groups)
    return F.dropout(weights, spec.dropout).to(value.dtype) @ value, weights
