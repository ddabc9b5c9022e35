"""Choose a backend and call it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from attention_lab.attention.backends.blocks import blocks_for
from attention_lab.attention.backends.flex import flex
from attention_lab.attention.backends.fused import fused
from attention_lab.attention.backends.reference import eager, eager_weights
from attention_lab.attention.backends.sdpa import sdpa
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.backends.tiled import tiled
from attention_lab.attention.backends.validation import Capabilities, triton_computes
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.normalizers import (
    Entmax15,
    Normalizer,
    ReLU,
    Sigmoid,
    Softmax,
    SoftmaxPlusOne,
    Sparsemax,
    TemperedSoftmax,
    TopK,
)
from attention_lab.attention.scores.additive import Additive
from attention_lab.attention.scores.base import DotProductFamily, Score


@dataclass(frozen=True, kw_only=True)
class Backend(Capabilities):
    """A way to compute attention, with the parts and devices that it supports."""

    name: str
    compute: Callable[[AttentionInputs, AttentionSpec], tuple[Tensor, Tensor | None]]
    #: Growth of its memory without a bias; None means that of the score.
    memory: str | None = "S·d"
    #: Whether it computes sliding windows in blocks.
    uses_blocks: bool = True

    def attend(self, inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor | None]:
        """Output (B, H, L, E_v) and, if asked for, weights (B, H, L, S).

        The output is the same either way. If the backend returns no weights, they are computed
        separately, in at least single precision.
        """
        # The kernel in Triton skips hidden keys by itself.
        by_triton = self.compute is fused and triton_computes(inputs, spec)
        blocks = blocks_for(inputs, spec) if self.uses_blocks and not by_triton else None
        if blocks is None:
            inputs = spec.with_bias(inputs)
            output, weights = self.compute(inputs, spec)
        else:
            parts = spec.with_bias(blocks.split(inputs))
            output, weights = self.compute(parts, replace(spec, in_blocks=True))[0], None
            output = blocks.join(output, inputs.query.shape[2])
        if not inputs.need_weights:
            return output, None
        if weights is None:
            weights = eager_weights(spec.with_bias(inputs), spec)
        return output, weights

    def describe(self, info: MechanismInfo, spec: AttentionSpec) -> MechanismInfo:
        """The data on a mechanism, once this backend computes it."""
        memory = "L·S" if self.memory and spec.has_bias else self.memory  # a bias is of all pairs
        return replace(
            info,
            backends=tuple(backend.name for backend in able_backends(spec)),
            memory=memory or info.memory,
            double_backward_on=self.double_backward_on,
        )


EAGER = Backend(
    name="eager",
    compute=eager,
    scores=(Score,),
    normalizers=(Normalizer,),
    mixes_heads=True,
    memory=None,
)
FUSED = Backend(
    name="fused",
    compute=fused,
    scores=(Additive,),
    normalizers=(Normalizer,),
    mixes_heads=True,
    memory="L·S",
)
SDPA = Backend(
    name="sdpa",
    compute=sdpa,
    scores=(DotProductFamily,),
    normalizers=(Softmax, SoftmaxPlusOne, TemperedSoftmax),
    double_backward_on=("cpu",),
)
TILED = Backend(
    name="tiled",
    compute=tiled,
    scores=(DotProductFamily,),
    normalizers=(Sigmoid, ReLU, Sparsemax, Entmax15, TopK),
    memory=None,  # as eager for few pairs
)
FLEX = Backend(
    name="flex",
    compute=flex,
    scores=(DotProductFamily,),
    normalizers=(Softmax,),
    trains_on=("cuda",),
    double_backward_on=(),
    drops_weights=False,
    uses_blocks=False,  # its block masks skip the hidden keys
)

#: In order of preference. "auto" never takes flex, since eager can compute everything.
BACKENDS = (SDPA, FUSED, TILED, EAGER, FLEX)


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
