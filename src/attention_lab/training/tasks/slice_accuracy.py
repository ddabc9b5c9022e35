"""Accuracy of each kind of example by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class SliceAccuracy(Metric):
    """Of each slice, the fraction of what was asked that was answered right.

    >>> accuracy = SliceAccuracy(["short", "long", "none such"])
    >>> accuracy.update(torch.tensor([1, 0, 3]), torch.tensor([1, 2, 4]), torch.tensor([0, 1, 1]))
    >>> {name: float(rate) for name, rate in accuracy.compute().items()}
    {'accuracy/short': 1.0, 'accuracy/long': 0.5}

    Args:
        names: of the slices.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    right: Tensor
    asked: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        for state in ("right", "asked"):
            self.add_state(state, torch.zeros(len(names), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, right: Tensor, asked: Tensor, slices: Tensor) -> None:
        """Count some examples.

        Args:
            right: right answers to each example, (B,) whole numbers.
            asked: questions to each example, (B,) whole numbers.
            slices: number of each example's slice, (B,) int64.
        """
        self.right.index_add_(0, slices, right.to(torch.int64))
        self.asked.index_add_(0, slices, asked.to(torch.int64))

    def compute(self) -> dict[str, Tensor]:
        """The accuracy of each slice that had examples, as ``accuracy/NAME``."""
        rates = self.right / self.asked
        known = self.asked > 0
        return {
            f"accuracy/{name}": rate
            for name, rate, has in zip(self.names, rates, known.tolist(), strict=True)
            if has
        }
