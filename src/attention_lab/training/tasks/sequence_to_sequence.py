"""Sequence-to-sequence: generating a target sequence from a source sequence."""

from collections.abc import Mapping
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from attention_lab.argument_checks import check_positive
from attention_lab.data.core.batches import PackedPairs, SequencePairs
from attention_lab.data.core.sequence_to_sequence import SequenceToSequenceDataModule
from attention_lab.data.core.vocabulary import BOS, EOS, PAD
from attention_lab.models.base import SequenceToSequenceNetwork
from attention_lab.models.decoding import beam_search, greedy_search, n_best_search
from attention_lab.training.distributed.fsdp import reshard, unshard
from attention_lab.training.optim import Optimization
from attention_lab.training.tasks.base import (
    AttentionTask,
    Loss,
    Prediction,
    Split,
    compute_and_reset,
    mean_metric,
)


class SequenceToSequence(AttentionTask):
    """Generates a target for a source, greedily or by beam search.

    Trained with cross-entropy and teacher forcing. Metrics: loss, token accuracy (both with teacher
    forcing), and the dataset's metrics of the generated sequences.

    Args:
        model: the network.
        data: the loaded dataset; it defines the references and the metrics of generated sequences.
        optimization: the optimizer, its schedule and its parameter groups.
        label_smoothing: probability spread over all tokens in the training loss (Szegedy et al.
            2016, §7). Evaluation losses are never smoothed.
        max_length: the largest number of tokens to generate, including the end token; None means
            the length of the longest target in any split.
        num_beams: the width of beam search; 1 means greedy decoding.
        length_penalty: α of beam search (Wu et al. 2016, eq. 14).

    Raises:
        ValueError: if a value is out of range.
    """

    task = "sequence_to_sequence"
    model: SequenceToSequenceNetwork
    data: SequenceToSequenceDataModule

    def __init__(
        self,
        model: SequenceToSequenceNetwork,
        data: SequenceToSequenceDataModule,
        optimization: Optimization,
        label_smoothing: float = 0.1,
        max_length: int | None = None,
        num_beams: int = 1,
        length_penalty: float = 0.6,
    ) -> None:
        super().__init__(model, data, optimization)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if max_length is None:
            max_length = data.longest()[-1] - 1  # without BOS, which is not generated
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        check_positive(num_beams=num_beams)
        if length_penalty < 0:
            raise ValueError(f"length_penalty must be at least 0, got {length_penalty}")
        self.label_smoothing, self.max_length = label_smoothing, max_length
        self.num_beams, self.length_penalty = num_beams, length_penalty
        self.mean_loss = mean_metric()
        self.token_accuracy = MulticlassAccuracy(
            len(data.target_vocabulary), average="micro", ignore_index=PAD
        )
        self.sequence_metrics = data.metric()

    def loss(self, batch: SequencePairs | PackedPairs) -> Loss:
        positions = {}  # own networks need not take positions
        if isinstance(batch, PackedPairs):
            positions["source_positions"] = batch.source_positions
            positions["target_positions"] = batch.target_positions
        logits = self.model(batch.source, batch.inputs, **positions)
        loss = self._cross_entropy(logits, batch.labels, self.label_smoothing)
        labels = (batch.labels != PAD).sum()
        return Loss(loss, labels, (batch.source != PAD).sum() + labels)

    def on_validation_epoch_start(self) -> None:
        # Ranks decode to different lengths, so they cannot gather the parameters step by step.
        unshard(self.model)

    def on_validation_epoch_end(self) -> None:
        reshard(self.model)
        super().on_validation_epoch_end()

    def update_metrics(self, batch: SequencePairs, split: Split) -> Tensor:
        logits, labels = self.model(batch.source, batch.inputs), batch.labels
        loss = self._cross_entropy(logits, labels, label_smoothing=0.0)
        self.mean_loss.update(loss, weight=(labels != PAD).sum())
        self.token_accuracy.update(logits.flatten(0, 1), labels.flatten())
        generated = self.generate(batch.source)
        references = [self.data.references(split)[index] for index in batch.index.tolist()]
        self.sequence_metrics.update(generated, references)
        correct = torch.tensor(
            [tuple(row) in accepted for row, accepted in zip(generated, references, strict=True)],
            device=logits.device,
        )
        self.update_slices(batch, split, correct, torch.ones_like(correct))
        return loss

    def generate(self, source: Tensor) -> list[list[int]]:
        """The target tokens for source tokens (B, S), up to the end token."""
        if self.num_beams == 1:
            generated = greedy_search(self.model, source, BOS, EOS, self.max_length)
        else:
            options = (self.max_length, self.num_beams, self.length_penalty)
            generated = beam_search(self.model, source, BOS, EOS, *options)
        return [_until_end(row) for row in generated.tolist()]

    def generate_n_best(self, source: Tensor, n_best: int) -> list[list[tuple[list[int], float]]]:
        """The best hypotheses for source tokens (B, S), with their scores; the best first.

        Raises:
            ValueError: if ``n_best`` is not from 1 to ``num_beams``.
        """
        options = (self.max_length, self.num_beams, n_best, self.length_penalty)
        best = n_best_search(self.model, source, BOS, EOS, *options)
        return [
            [(_until_end(row), score) for row, score in zip(rows, own, strict=True) if score > -inf]
            for rows, own in zip(best.tokens.tolist(), best.scores.tolist(), strict=True)
        ]

    def compute_metrics(self, split: Split) -> dict[str, Tensor]:
        return {
            "loss": compute_and_reset(self.mean_loss),
            "token_accuracy": compute_and_reset(self.token_accuracy),
            **compute_and_reset(self.sequence_metrics),
        }

    def metric_bounds(self) -> Mapping[str, tuple[float, float | None]]:
        bounds: Mapping[str, tuple[float, float | None]]
        bounds = getattr(self.sequence_metrics, "bounds", {})
        return bounds

    def record_attention(self, batch: SequencePairs) -> None:
        self.model(batch.source, batch.inputs)

    def predict_examples(self, batch: SequencePairs) -> list[Prediction]:
        """The generated target of each source; it is correct if it is an accepted target."""
        accepted = self.data.references("validation")
        source, target = self.data.source_vocabulary.decode, self.data.target_vocabulary.decode
        generated = self.generate(batch.source)
        return [
            Prediction(source(given), target(own), target(row), tuple(row) in accepted[index])
            for given, own, index, row in zip(
                batch.source.tolist(),
                batch.target.tolist(),
                batch.index.tolist(),
                generated,
                strict=True,
            )
        ]

    @staticmethod
    def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=PAD,
            label_smoothing=label_smoothing,
        )


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS)] if EOS in tokens else tokens
