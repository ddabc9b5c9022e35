"""Accuracy by slices of the data."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from attention_lab.data.core.slices import Slices


class SliceAccuracy(Metric):
    """The fraction of correct predictions in each slice.

    >>> slices = Slices(["short", "long", "empty"], lambda batch: batch)
    >>> accuracy = SliceAccuracy(slices)
    >>> accuracy.update(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 3]), torch.tensor([1, 2, 4]))
    >>> {name: float(rate) for name, rate in accuracy.compute().items()}
    {'accuracy/short': 1.0, 'accuracy/long': 0.5}

    Args:
        slices: the slices of a split.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self, slices: Slices) -> None:
        super().__init__()
        self.slices = slices
        zeros = torch.zeros(len(slices.names), dtype=torch.int64)
        for state in ("correct", "total"):
            self.add_state(state, zeros.clone(), dist_reduce_fx="sum")

    def update(self, batch: Any, correct: Tensor, total: Tensor) -> None:
        """Count the predictions of a batch.

        Args:
            batch: the batch, (B) examples.
            correct: correct predictions for each example, (B,) integers or bool.
            total: predictions for each example, (B,) integers or bool.
        """
        index = self.slices.index_of(batch)
        self.correct.index_add_(0, index, correct.to(torch.int64))
        self.total.index_add_(0, index, total.to(torch.int64))

    def compute(self) -> dict[str, Tensor]:
        """The accuracy of each slice that had examples, as ``accuracy/NAME``."""
        rates = self.correct / self.total
        return {
            f"accuracy/{name}": rate
            for name, rate, total in zip(self.slices.names, rates, self.total.tolist(), strict=True)
            if total
        }
