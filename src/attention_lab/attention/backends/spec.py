"""The parts of one attention call."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from attention_lab.attention.head_mixing import HeadMixing
from attention_lab.attention.inputs import AttentionInputs, repeat_heads
from attention_lab.attention.normalizers import Normalizer
from attention_lab.attention.positions import Positions
from attention_lab.attention.scores.base import Score


@dataclass(frozen=True)
class AttentionSpec:
    """The parts that attention is computed from, besides its inputs."""

    score: Score
    normalizer: Normalizer
    mixing: HeadMixing | None = None
    dropout: float = 0.0
    #: Positions whose bias is added to the logits.
    positions: Positions | None = None
    #: Whether the inputs are blocks of sequences.
    in_blocks: bool = False

    @property
    def has_bias(self) -> bool:
        """Whether positions add a bias to the logits."""
        return self.positions is not None and self.positions.adds_to_logits

    @property
    def bias_needs_grad(self) -> bool:
        """Whether a bias may need a gradient; its requires_grad is not reliable under vmap."""
        if self.positions is None:
            return False
        # A learned temperature scales the bias, too.
        return self.positions.bias_needs_grad or any(True for _ in self.normalizer.parameters())

    def with_bias(self, inputs: AttentionInputs) -> AttentionInputs:
        """The inputs with the bias of their positions, unless they have one already."""
        if self.positions is None or not self.has_bias or inputs.bias is not None:
            return inputs
        bias = self.positions.bias(inputs.query, inputs.start, inputs.key.shape[2])
        return replace(inputs, bias=bias)

    def logits(self, inputs: AttentionInputs, **options: bool) -> Tensor:
        """The score's logits (B, H, L, S).

        Calling the module runs its forward hooks, which record_logits uses. It records whole
        sequences only, so the logits of blocks are computed without the hooks.
        """
        compute: Callable[..., Tensor] = self.score.forward if self.in_blocks else self.score
        if inputs.keys_are_mapped:
            options["keys_are_mapped"] = True
        return compute(inputs.query, repeat_heads(inputs.key, inputs.groups), **options)
