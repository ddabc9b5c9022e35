"""Training and evaluating networks that give a sequence one label."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.models.base import ClassificationNetwork
from attention_lab.training.optim import OptimizerOptions
from attention_lab.training.tasks.base import AttentionTask, Loss, Split


class Classification(AttentionTask):
    """Cross-entropy and accuracy.

    Args:
        model: the network.
        data: the dataset.
        optimizer: how to train.
    """

    task = "classification"
    model: ClassificationNetwork

    def __init__(
        self,
        model: ClassificationNetwork,
        data: SplitDataModule[LabelledSequences],
        optimizer: OptimizerOptions,
    ) -> None:
        super().__init__(model, data, optimizer)
        self.mean_loss = MeanMetric()
        self.accuracy = MulticlassAccuracy(data.model_arguments()["classes"], average="micro")

    def loss(self, batch: LabelledSequences) -> Loss:
        loss = F.cross_entropy(self.model(batch.inputs), batch.labels)
        return Loss(loss, len(batch.labels), batch.lengths().sum())

    def evaluate(self, batch: LabelledSequences, split: Split) -> None:
        logits = self.model(batch.inputs)
        loss = F.cross_entropy(logits, batch.labels)
        self.require_finite(f"{split} loss", loss)
        self.mean_loss.update(loss, weight=len(batch.labels))
        self.accuracy.update(logits, batch.labels)
        right = logits.argmax(-1) == batch.labels
        self.tell_apart(batch, split, right, torch.ones_like(right))

    def results(self, split: Split) -> dict[str, Tensor]:
        values = {"loss": self.mean_loss.compute(), "accuracy": self.accuracy.compute()}
        self.mean_loss.reset()
        self.accuracy.reset()
        return values

    def bounds(self) -> Mapping[str, tuple[float, float | None]]:
        return {"loss": (0.0, None), "accuracy": (0.0, 1.0)}

    def look_at(self, batch: LabelledSequences) -> None:
        self.model(batch.inputs)
