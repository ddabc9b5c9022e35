"""What datasets of sequences with a class each have in common."""

import torch
from torch import Tensor

from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.splits import SplitDataModule


class LabelledSequencesData(SplitDataModule[LabelledSequences]):
    """A dataset for classifiers."""

    task = "classification"
    monitor = "accuracy"
    mode = "max"

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Accuracy of always answering the most frequent class of the training split."""
        majority = self.split("train").labels.bincount().argmax()
        return self.right(split, majority)

    def right(self, split: str, answers: Tensor) -> dict[str, float]:
        """Accuracy of some answers to a split, (N,) int64, or of one answer () to all."""
        return {"accuracy": float((self.split(split).labels == answers).double().mean())}


def most_frequent(kind: Tensor, labels: Tensor, kinds: int) -> Tensor:
    """The most frequent label of each kind of example, (kinds,) int64.

    Of equals it is the first; so it is 0 for a kind that does not occur.

    Args:
        kind: of each example, (N,) int64 from 0 to kinds − 1.
        labels: of each example, (N,) int64.
        kinds: how many there are.
    """
    counts = torch.zeros(kinds, int(labels.max()) + 1, dtype=torch.int64)
    return counts.index_put_((kind, labels), torch.tensor(1), accumulate=True).argmax(1)
