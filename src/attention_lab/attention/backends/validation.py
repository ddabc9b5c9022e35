"""What a backend can compute, and the reason if it cannot."""

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch

from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.normalizers import ReLU, Sigmoid, Softmax, SoftmaxPlusOne
from attention_lab.attention.scores.base import DotProductFamily

#: The largest size of a head's values whose tiles fit the memory of a GPU's multiprocessor.
LARGEST_TRITON_VALUE = 128


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
        if self.scores == (DotProductFamily,) and isinstance(
            spec.normalizer, SoftmaxPlusOne | Sigmoid | ReLU
        ):
            assert isinstance(spec.score, DotProductFamily)
            if not spec.score.folds_exactly:
                return f"its logits of {type(spec.score).__name__} lack a term of the query"
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


def triton_computes(inputs: AttentionInputs, spec: AttentionSpec) -> bool:
    """Whether the kernels in Triton compute this attention with an additive score.

    They do so in single or half precision, with a softmax, without a bias or head mixing.
    """
    has_bias = inputs.bias is not None or spec.has_bias
    is_plain = spec.mixing is None and not has_bias
    is_double = torch.float64 in (inputs.query.dtype, inputs.key.dtype, inputs.value.dtype)
    return (
        _runs_triton(inputs.query.device.type)
        and type(spec.normalizer) is Softmax
        and is_plain
        and not is_double
        and inputs.value.shape[3] <= LARGEST_TRITON_VALUE
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # PyTorch gives no types
def _runs_triton(device: str) -> bool:
    """Whether Triton runs here: on GPUs with bfloat16, and interpreted on the CPU if asked to."""
    if device == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return device == "cuda" and _has_triton_gpu()


@cache
def _has_triton_gpu() -> bool:
    if find_spec("triton") is None:
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)
