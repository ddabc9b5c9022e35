"""Language modeling: predicting the next token."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.data.core.batches import IGNORE, LabelledPositions, labelled_positions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.models.base import LanguageNetwork
from attention_lab.training.optim import Optimization
from attention_lab.training.tasks.base import (
    AttentionTask,
    Loss,
    Prediction,
    Split,
    compute_and_reset,
    mean_metric,
)


class LanguageModel(AttentionTask):
    """Predicts the next token at the labelled positions; logits are computed at no others.

    Trained with cross-entropy. Metrics: ``loss`` (nats per position), and those that
    ``data.metrics`` names.

    Args:
        model: the network.
        data: the loaded dataset.
        optimization: the optimizer, its schedule and its parameter groups.
    """

    task = "language_model"
    model: LanguageNetwork
    data: LanguageModelDataModule

    def __init__(
        self, model: LanguageNetwork, data: LanguageModelDataModule, optimization: Optimization
    ) -> None:
        super().__init__(model, data, optimization)
        self.mean_loss, self.accuracy, self.sequence_accuracy = (mean_metric() for _ in range(3))

    def loss(self, batch: LabelledPositions) -> Loss:
        logits, labels, _ = self._labelled(batch)
        return Loss(F.cross_entropy(logits, labels), len(labels), batch.length.sum())

    def update_metrics(self, batch: LabelledPositions, split: Split) -> Tensor:
        logits, labels, positions = self._labelled(batch)
        loss = F.cross_entropy(logits, labels)
        is_labelled = batch.labels != IGNORE
        is_correct = torch.zeros_like(is_labelled).flatten()
        is_correct[positions] = logits.argmax(-1) == labels
        correct, total = is_correct.view_as(is_labelled).sum(1), is_labelled.sum(1)
        self.mean_loss.update(loss, weight=total.sum())
        self.accuracy.update(correct.sum() / total.sum(), weight=total.sum())
        self.sequence_accuracy.update((correct == total).float())
        self.update_slices(batch, split, correct, total)
        return loss

    def compute_metrics(self, split: Split) -> dict[str, Tensor]:
        loss = compute_and_reset(self.mean_loss)
        metrics = {
            "perplexity": loss.exp(),
            "accuracy": compute_and_reset(self.accuracy),
            "sequence_accuracy": compute_and_reset(self.sequence_accuracy),
        }
        if (characters := self.data.characters_per_token(split)) is not None:
            metrics["bits_per_character"] = loss / math.log(2) / characters
        return {"loss": loss, **{name: metrics[name] for name in self.data.metrics}}

    def _labelled(self, batch: LabelledPositions) -> tuple[Tensor, Tensor, Tensor]:
        """The logits (N, V), labels (N,) and indices (N,) of the labelled positions."""
        labels = batch.labels.flatten()
        positions = labelled_positions(labels) if batch.labelled is None else batch.labelled
        states = self._hidden_states(batch).flatten(0, 1)
        if len(positions) < len(labels):  # else a copy is not needed
            states, labels = states[positions], labels[positions]
        return self.model.lm_head(states), labels, positions

    def _hidden_states(self, batch: LabelledPositions) -> Tensor:
        if batch.positions is None:  # own networks need not take positions
            return self.model.hidden_states(batch.inputs)
        return self.model.hidden_states(batch.inputs, positions=batch.positions)

    def record_attention(self, batch: LabelledPositions) -> None:
        self._hidden_states(batch)

    def predict_examples(self, batch: LabelledPositions) -> list[Prediction]:
        """The most probable token at each labelled position, given the right tokens before it."""
        logits, _, positions = self._labelled(batch)
        best = batch.labels.flatten().index_copy(0, positions, logits.argmax(-1))
        predicted, is_labelled = best.view_as(batch.labels), batch.labels != IGNORE
        columns = torch.arange(batch.inputs.shape[1], device=batch.length.device)
        texts = (
            self._texts(batch, batch.inputs, columns < batch.length[:, None]),
            self._texts(batch, batch.labels, is_labelled),
            self._texts(batch, predicted, is_labelled),
        )
        is_correct = (predicted == batch.labels).all(1).tolist()
        return [Prediction(*fields) for fields in zip(*texts, is_correct, strict=True)]

    def _texts(self, batch: LabelledPositions, ids: Tensor, is_shown: Tensor) -> list[str]:
        """The tokens at the shown positions of each example; ids and is_shown are (B, L)."""
        if (vocabulary := self.data.text_vocabulary) is not None:
            rows = zip(ids, is_shown, strict=True)
            return [vocabulary.decode(row[shown].tolist()) for row, shown in rows]
        # A dataset names the tokens of inputs only.
        names = self.data.position_labels(batch._replace(inputs=ids.where(is_shown, 0)))
        return [
            " ".join(name for name, shown in zip(example["input"], row, strict=False) if shown)
            for example, row in zip(names, is_shown.tolist(), strict=True)
        ]
