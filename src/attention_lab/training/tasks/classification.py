"""Sequence classification."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.models.base import ClassificationNetwork
from attention_lab.training.optim import Optimization
from attention_lab.training.tasks.base import (
    AttentionTask,
    Loss,
    Split,
    compute_and_reset,
    mean_metric,
)


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
