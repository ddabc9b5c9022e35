"""Training and evaluating networks that say what comes next."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.models.base import LanguageNetwork
from attention_lab.training.optim import OptimizerOptions
from attention_lab.training.tasks.base import AttentionTask, Loss, Split


class LanguageModel(AttentionTask):
    """Cross-entropy at the labelled positions, and at no others are there logits.

    Evaluation gives ``loss`` (nats a position) and the metrics that the data names.

    Args:
        model: the network.
        data: the dataset.
        optimizer: how to train.
    """

    task = "language_model"
    model: LanguageNetwork
    data: LanguageModelDataModule

    def __init__(
        self, model: LanguageNetwork, data: LanguageModelDataModule, optimizer: OptimizerOptions
    ) -> None:
        super().__init__(model, data, optimizer)
        self.mean_loss, self.accuracy, self.sequence_accuracy = (MeanMetric() for _ in range(3))

    def loss(self, batch: LabelledPositions) -> Loss:
        logits, labels = self._asked(batch)
        return Loss(F.cross_entropy(logits, labels), len(labels), batch.length.sum())

    def evaluate(self, batch: LabelledPositions, split: Split) -> None:
        logits, labels = self._asked(batch)
        loss = F.cross_entropy(logits, labels)
        self.require_finite(f"{split} loss", loss)
        asked = batch.labels != IGNORE
        right = torch.zeros_like(asked)
        right[asked] = logits.argmax(-1) == labels
        counts, wanted = right.sum(1), asked.sum(1)
        self.mean_loss.update(loss, weight=wanted.sum())
        self.accuracy.update(counts.sum() / wanted.sum(), weight=wanted.sum())
        self.sequence_accuracy.update((counts == wanted).float())
        self.tell_apart(batch, split, counts, wanted)

    def results(self, split: Split) -> dict[str, Tensor]:
        loss = self.mean_loss.compute()
        known = {
            "perplexity": loss.exp(),
            "accuracy": self.accuracy.compute(),
            "sequence_accuracy": self.sequence_accuracy.compute(),
        }
        if (characters := self.data.characters_per_token(split)) is not None:
            known["bits_per_character"] = loss / math.log(2) / characters
        for metric in (self.mean_loss, self.accuracy, self.sequence_accuracy):
            metric.reset()
        return {"loss": loss, **{name: known[name] for name in self.data.metrics}}

    def _asked(self, batch: LabelledPositions) -> tuple[Tensor, Tensor]:
        """The logits (N, V) and labels (N,) of the labelled positions.

        To find them waits for the device once.
        """
        labels = batch.labels.flatten()
        places = (labels != IGNORE).nonzero().squeeze(1)
        states = self.model.hidden_states(batch.inputs).flatten(0, 1)
        if len(places) < len(labels):  # otherwise nothing need be copied
            states, labels = states[places], labels[places]
        return self.model.lm_head(states), labels

    def bounds(self) -> Mapping[str, tuple[float, float | None]]:
        return {
            "loss": (0.0, None),
            "perplexity": (1.0, None),
            "accuracy": (0.0, 1.0),
            "sequence_accuracy": (0.0, 1.0),
            "bits_per_character": (0.0, None),
        }

    def look_at(self, batch: LabelledPositions) -> None:
        self.model.hidden_states(batch.inputs)
