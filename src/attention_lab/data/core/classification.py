"""The base class of datasets for classification."""

import torch
from torch import Tensor

from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.datamodule import SplitDataModule


class ClassificationDataModule(SplitDataModule[LabelledSequences]):
    """A dataset of sequences with one class each."""

    task = "classification"
    monitor = "accuracy"
    mode = "max"

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Accuracy of always predicting the most frequent class of the training split."""
        majority = self.split("train").labels.bincount().argmax()
        return self.accuracy(split, majority)

    def accuracy(self, split: str, predicted: Tensor) -> dict[str, float]:
        """Accuracy of predicted classes, (N,) int64, or of the same class () for a whole split."""
        return {"accuracy": float((self.split(split).labels == predicted).double().mean())}


def majority_labels(kind: Tensor, labels: Tensor, kinds: int) -> Tensor:
    """The most frequent label for each kind of example, (kinds,) int64.

    The smallest label wins a tie, so a kind without examples gets 0.

    Args:
        kind: the kind of each example, (N,) int64 from 0 to kinds − 1.
        labels: the label of each example, (N,) int64.
        kinds: number of kinds.
    """
    counts = torch.zeros(kinds, int(labels.max()) + 1, dtype=torch.int64)
    return counts.index_put_((kind, labels), torch.tensor(1), accumulate=True).argmax(1)
