"""What datasets of sequences with a class each have in common."""

import torch
from torch import Tensor

from attention_lab.data.batches import LabelledSequences
from attention_lab.data.splits import SplitDataModule


class LabelledSequencesData(SplitDataModule[LabelledSequences]):
    """A dataset for classifiers."""

    task = "classification"
    monitor = "accuracy"
    mode = "max"

    def floor(self, split: str) -> dict[str, float]:
        """Accuracy of always answering the most frequent class of the training split."""
        majority = self.split("train").labels.bincount().argmax()
        return self.right(split, majority)

    def right(self, split: str, answers: Tensor) -> dict[str, float]:
        """Accuracy of some answers to a split, (N,) int64, or of one answer () to all."""
        return {"accuracy": float((self.split(split).labels == answers).double().mean())}


def most_frequent(kinds: Tensor, labels: Tensor) -> Tensor:
    """The most frequent label of each kind of example, the first of equals, (K,) int64.

    Args:
        kinds: the kind of each example, (N,) int64 from 0 to K − 1.
        labels: its label, (N,) int64.
    """
    counts = torch.zeros(int(kinds.max()) + 1, int(labels.max()) + 1, dtype=torch.int64)
    return counts.index_put_((kinds, labels), torch.tensor(1), accumulate=True).argmax(1)
