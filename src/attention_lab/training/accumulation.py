"""Gradient accumulation: the gradient of the mean over all labels of an optimizer step."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class AccumulatedLoss:
    """Weights the losses of the batches of one optimizer step by their numbers of labels.

    Lightning divides the mean loss of each batch by the number of batches, so labels in small
    batches would have more weight. Here each loss is weighted by its labels, and once all labels
    of the step are counted, :meth:`rescale` corrects the gradient.

    Args:
        batches: what Lightning divides each loss by, ``accumulate_grad_batches``.
        unit: (), about the labels of a batch. The weights are in units of it, because large scaled
            gradients would overflow in 16-mixed.
    """

    def __init__(self, batches: int, unit: Tensor) -> None:
        self._batches, self._unit = batches, unit
        self._labels = torch.zeros_like(unit)
        self._loss = torch.zeros((), device=unit.device)

    def add(self, mean: Tensor, labels: Tensor | int, all_labels: Tensor) -> Tensor:
        """The weighted loss of a batch, (); its gradient is to be accumulated.

        Args:
            mean: (), the mean loss of this rank's labels.
            labels: (), the number of this rank's labels, times the number of ranks.
            all_labels: (), the number of the labels of all ranks.
        """
        weighted = mean * (labels / self._unit)
        self._labels = self._labels + all_labels
        self._loss = self._loss + weighted.detach()
        return weighted

    @property
    def mean(self) -> Tensor:
        """The mean loss over all labels so far, (); with several ranks, average it over them."""
        return self._loss * (self._unit / self._labels)

    def rescale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make the accumulated gradients those of the mean over all labels so far."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        parts = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        torch._foreach_mul_(parts, self._batches * self._unit / self._labels)
