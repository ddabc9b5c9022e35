"""A constant score: attention as the mean of the visible values."""

import torch
from torch import Tensor

from attention_lab.attention.scores.base import DotProductFamily


class Uniform(DotProductFamily):
    """logits = 0: every visible key has the same weight, as a control without attention.

    In a recurrent encoder–decoder the output is the same at every step: the mean of the source.
    """

    formula = "0"
    paper = "the mean"
    projections = "values"
    ever_positive = False
    uses_inputs = False

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return torch.zeros_like(query), key, 1.0
