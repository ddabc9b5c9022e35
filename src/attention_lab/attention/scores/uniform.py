"""The score that does not look: attention as a plain mean."""

import torch
from torch import Tensor

from attention_lab.attention.scores.base import DotProductFamily


class Uniform(DotProductFamily):
    """logits = 0: every visible key weighs the same; the control without attention.

    In a recurrent encoder–decoder this is a fixed summary of the source, the same at every step.
    """

    def fold(self, query: Tensor) -> tuple[Tensor, float]:
        return torch.zeros_like(query), 1.0
