"""What a backend can compute, and the reason if it cannot."""

from dataclasses import dataclass

import torch

from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.inputs import AttentionInputs


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The parts and devices that a backend supports."""

    scores: tuple[type, ...]
    normalizers: tuple[type, ...]
    #: The device types on which it can train. It can infer on all of them.
    trains_on: tuple[str, ...] = ("cpu", "cuda", "mps")
    mixes_heads: bool = False
    drops_weights: bool = True
    #: The device types on which it has second derivatives; on others, asking for them may raise.
    double_backward_on: tuple[str, ...] = ("cpu", "cuda", "mps")

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


def check_flex(inputs: AttentionInputs, folded: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Raise ValueError if FlexAttention cannot compute a call on its device.

    Args:
        inputs: those of the call.
        folded: the query and the key that FlexAttention gets.
    """
    device, dtype = folded[0].device.type, folded[0].dtype
    needs_gradient = torch.is_grad_enabled() and any(
        x.requires_grad for x in (*folded, inputs.value)
    )
    if device == "cpu" and needs_gradient:
        raise ValueError("backend=flex only infers on the cpu; sdpa or eager trains there")
    if device == "cuda" and dtype == torch.float64:
        raise ValueError("backend=flex cannot compute float64 on cuda; sdpa or eager can")
