"""The score that does not look: attention as a plain mean."""

import torch
from torch import Tensor

from attention_lab.attention.scores.base import DotProductFamily


class Uniform(DotProductFamily):
    """logits = 0: every visible key weighs the same; the control without attention.

    In a recurrent encoder–decoder this is a fixed summary of the source, the same at every step.
    """

    formula = "0"
    paper = "the mean"
    projections = "values"
    ever_positive = False
    uses_inputs = False

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return torch.zeros_like(query), key, 1.0
