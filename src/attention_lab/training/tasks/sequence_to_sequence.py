"""Training and evaluating networks that read one sequence and write another."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from attention_lab.attention.validation import check_positive
from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.sequence_to_sequence import SequenceToSequenceDataModule
from attention_lab.data.core.vocabulary import BOS, EOS, PAD
from attention_lab.models.base import SequenceToSequenceNetwork
from attention_lab.models.decoding import beam_search, greedy_search
from attention_lab.training.distributed.fsdp import gather, scatter
from attention_lab.training.optim import OptimizerOptions
from attention_lab.training.tasks.base import AttentionTask, Loss, Split


class SequenceToSequence(AttentionTask):
    """Cross-entropy with teacher forcing; evaluation by greedy decoding, or by beam search.

    Args:
        model: the network.
        data: the dataset, which brings the references and the metric of written sequences.
        optimizer: how to train.
        label_smoothing: probability spread over all tokens in the training loss (Szegedy et al.
            2016, §7). Evaluation losses are never smoothed.
        max_length: tokens after which decoding gives up, the end counted; None means the length of
            the longest target there is, in any split.
        beams: number of hypotheses of beam search; 1 is greedy decoding.
        length_penalty: of beam search, α of Wu et al. 2016, eq. 14.

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
        optimizer: OptimizerOptions,
        label_smoothing: float = 0.1,
        max_length: int | None = None,
        beams: int = 1,
        length_penalty: float = 0.6,
    ) -> None:
        super().__init__(model, data, optimizer)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if max_length is None:
            max_length = data.longest()[-1] - 1  # without BOS, which is never written
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        check_positive(beams=beams)
        if length_penalty < 0:
            raise ValueError(f"length_penalty must be at least 0, got {length_penalty}")
        self.label_smoothing, self.max_length = label_smoothing, max_length
        self.beams, self.length_penalty = beams, length_penalty
        self.mean_loss = MeanMetric()
        self.token_accuracy = MulticlassAccuracy(
            len(data.target_vocabulary), average="micro", ignore_index=PAD
        )
        self.written = data.metric()

    def loss(self, batch: SequencePairs) -> Loss:
        logits = self.model(batch.source, batch.target[:, :-1])
        loss = self._cross_entropy(logits, batch.target[:, 1:], self.label_smoothing)
        labels = (batch.target[:, 1:] != PAD).sum()
        return Loss(loss, labels, (batch.source != PAD).sum() + labels)

    def on_validation_epoch_start(self) -> None:
        gather(self.model)

    def on_validation_epoch_end(self) -> None:
        scatter(self.model)
        super().on_validation_epoch_end()

    def evaluate(self, batch: SequencePairs, split: Split) -> None:
        logits, following = self.model(batch.source, batch.target[:, :-1]), batch.target[:, 1:]
        loss = self._cross_entropy(logits, following, label_smoothing=0.0)
        self.require_finite(f"{split} loss", loss)
        self.mean_loss.update(loss, weight=(following != PAD).sum())
        self.token_accuracy.update(logits.flatten(0, 1), following.flatten())
        outputs = self.write(batch.source)
        accepted = [self.data.references(split)[index] for index in batch.index.tolist()]
        self.written.update(outputs, accepted)
        right = torch.tensor(
            [tuple(row) in known for row, known in zip(outputs, accepted, strict=True)],
            device=logits.device,
        )
        self.tell_apart(batch, split, right, torch.ones_like(right))

    def write(self, source: Tensor) -> list[list[int]]:
        """The target tokens written for sources (B, S), without their end."""
        if self.beams == 1:
            written = greedy_search(self.model, source, BOS, EOS, self.max_length)
        else:
            options = (self.max_length, self.beams, self.length_penalty)
            written = beam_search(self.model, source, BOS, EOS, *options)
        return [_until_end(row) for row in written.tolist()]

    def results(self, split: Split) -> dict[str, Tensor]:
        values = {
            "loss": self.mean_loss.compute(),
            "token_accuracy": self.token_accuracy.compute(),
            **self.written.compute(),
        }
        for metric in (self.mean_loss, self.token_accuracy, self.written):
            metric.reset()
        return values

    def bounds(self) -> Mapping[str, tuple[float, float | None]]:
        return {
            "loss": (0.0, None),
            "token_accuracy": (0.0, 1.0),
            **getattr(self.written, "bounds", {}),
        }

    def look_at(self, batch: SequencePairs) -> None:
        self.model(batch.source, batch.target[:, :-1])

    @staticmethod
    def _cross_entropy(logits: Tensor, following: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(
            logits.flatten(0, 1),
            following.flatten(),
            ignore_index=PAD,
            label_smoothing=label_smoothing,
        )


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS)] if EOS in tokens else tokens
