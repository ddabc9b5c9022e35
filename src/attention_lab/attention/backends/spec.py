"""The parts of one attention call."""

from dataclasses import dataclass

from attention_lab.attention.head_mixing import HeadMixing
from attention_lab.attention.normalizers import Normalizer
from attention_lab.attention.scores.base import Score


@dataclass(frozen=True)
class AttentionSpec:
    """The parts that attention is computed from, besides its inputs."""

    score: Score
    normalizer: Normalizer
    mixing: HeadMixing | None = None
    dropout: float = 0.0
    #: Whether a bias may need a gradient; its requires_grad is not reliable under vmap.
    bias_needs_grad: bool = False
