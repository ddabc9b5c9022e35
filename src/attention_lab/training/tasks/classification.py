"""Sequence classification."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.core.vocabulary import TextVocabulary
from attention_lab.models.base import ClassificationNetwork
from attention_lab.training.optim import Optimization
from attention_lab.training.tasks.base import (
    AttentionTask,
    Loss,
    Prediction,
    Split,
    compute_and_reset,
    mean_metric,
)


@runtime_checkable
class LabelledText(Protocol):
    """A dataset for the classification of text."""

    @property
    def text_vocabulary(self) -> TextVocabulary:
        """The vocabulary of the texts."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, in the order of their labels."""


class Classification(AttentionTask):
    """Classifies sequences. Trained with cross-entropy; metrics: loss, accuracy.

    Args:
        model: the network.
        data: the loaded dataset.
        optimization: the optimizer, its schedule and its parameter groups.
    """

    task = "classification"
    model: ClassificationNetwork

    def __init__(
        self,
        model: ClassificationNetwork,
        data: SplitDataModule[LabelledSequences],
        optimization: Optimization,
    ) -> None:
        super().__init__(model, data, optimization)
        self.mean_loss = mean_metric()
        self.accuracy = MulticlassAccuracy(data.model_arguments()["num_classes"], average="micro")

    def loss(self, batch: LabelledSequences) -> Loss:
        loss = F.cross_entropy(self.model(batch.inputs), batch.labels)
        return Loss(loss, len(batch.labels), batch.lengths().sum())

    def update_metrics(self, batch: LabelledSequences, split: Split) -> Tensor:
        logits = self.model(batch.inputs)
        loss = F.cross_entropy(logits, batch.labels)
        self.mean_loss.update(loss, weight=len(batch.labels))
        self.accuracy.update(logits, batch.labels)
        correct = logits.argmax(-1) == batch.labels
        self.update_slices(batch, split, correct, torch.ones_like(correct))
        return loss

    def compute_metrics(self, split: Split) -> dict[str, Tensor]:
        return {
            "loss": compute_and_reset(self.mean_loss),
            "accuracy": compute_and_reset(self.accuracy),
        }

    def record_attention(self, batch: LabelledSequences) -> None:
        self.model(batch.inputs)

    def predict_examples(self, batch: LabelledSequences) -> list[Prediction]:
        """The class of each input. Inputs of feature vectors are named by their number."""
        numbers = range(self.data.model_arguments()["num_classes"])
        names: Sequence[object] = getattr(self.data, "classes", numbers)
        predicted = self.model(batch.inputs).argmax(-1).tolist()
        return [
            Prediction(text, str(names[label]), str(names[predicted]), label == predicted)
            for text, label, predicted in zip(
                self._inputs(batch), batch.labels.tolist(), predicted, strict=True
            )
        ]

    def _inputs(self, batch: LabelledSequences) -> list[str]:
        """The inputs of a batch as text."""
        if batch.inputs.ndim > 2:
            return [f"example {number}" for number in range(1, len(batch.labels) + 1)]
        if isinstance(self.data, LabelledText):
            return [self.data.text_vocabulary.decode(row) for row in batch.inputs.tolist()]
        return [" ".join(names["input"]) for names in self.data.position_labels(batch)]
