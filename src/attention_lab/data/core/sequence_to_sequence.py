"""The base class of datasets for sequence-to-sequence models."""

from abc import abstractmethod
from typing import cast

from torchmetrics import Metric

from attention_lab.argument_checks import check_positive
from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.core.packing import PackedPairRows
from attention_lab.data.core.vocabulary import PAD, TextVocabulary

#: The default number of source tokens, and of target tokens, in a packed row.
_PACKED_LENGTH = 64


class SequenceToSequenceDataModule(SplitDataModule[SequencePairs]):
    """A dataset of source sequences, each with one or several target sequences.

    Args:
        batch_size: largest number of examples in a batch, per process; with ``packing``, of rows
            in a training batch.
        seed: seed of the order of the training batches.
        packing: whether training rows have as many pairs as fit, each with positions from 0 and
            masked from the others. Other splits have one pair in a row.
        packed_length: the largest number of source tokens, and of target tokens, in a packed row;
            None means 64, or the length of the longest sequence if that is greater.

    Raises:
        ValueError: if ``packed_length`` is below 1 or comes without ``packing``.
    """

    task = "sequence_to_sequence"
    vocabularies = ("source_vocabulary", "target_vocabulary")

    source_vocabulary: TextVocabulary
    target_vocabulary: TextVocabulary

    def __init__(
        self,
        batch_size: int,
        seed: int,
        packing: bool = False,
        packed_length: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        if packed_length is not None:
            check_positive(packed_length=packed_length)
            if not packing:
                raise ValueError(f"packed_length={packed_length} needs packing=true")
        self.packing, self.packed_length = packing, packed_length
        self._packed: PackedPairRows | None = None

    def training_rows(self) -> SequencePairs:
        """The training split; with ``packing``, rows of several of its pairs.

        Raises:
            ValueError: if a pair is longer than a row, or has no source or no target tokens.
        """
        if not self.packing:
            return self.split("train")
        if self._packed is None:
            self._packed = PackedPairRows(self.split("train"), self._row_length())
        # It has the interface of a batch, but its rows have another type.
        return cast(SequencePairs, self._packed)

    def _row_length(self) -> int:
        sources, targets = self.split("train").lengths().amax(0).tolist()
        longest = max(sources, targets - 1)
        if self.packed_length is None:
            return max(_PACKED_LENGTH, longest)
        if self.packed_length < longest:
            raise ValueError(
                f"data.packed_length={self.packed_length}: a training pair has a sequence of "
                f"{longest} tokens; use data.packed_length={longest} or more"
            )
        return self.packed_length

    @abstractmethod
    def references(self, split: str) -> list[list[tuple[int, ...]]]:
        """The accepted targets of each row of a split, as token ids without BOS and EOS.

        Raises:
            ValueError: if there is no such split.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """A new metric of predicted sequences.

        Its ``update`` takes a list of token ids and the references of each example; ``compute``
        returns scalar tensors by name. It may have ``bounds``, the smallest and the greatest value
        of each metric; reports clip confidence intervals to them.
        """

    def scores(self, predicted: list[list[int]], split: str) -> dict[str, float]:
        """The metrics of predictions for a split, one list of token ids per row."""
        metric = self.metric()
        metric.update(predicted, self.references(split))
        return {name: float(value) for name, value in metric.compute().items()}

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the two vocabularies."""
        return {
            "source_vocab_size": len(self.source_vocabulary),
            "target_vocab_size": len(self.target_vocabulary),
        }

    def position_labels(self, batch: SequencePairs) -> list[dict[str, list[str]]]:
        """The source tokens, and the target tokens that the decoder predicts, with ``</s>``."""
        return [
            {
                "source": [self.source_vocabulary.token(id) for id in source if id != PAD],
                "target": [self.target_vocabulary.token(id) for id in target[1:] if id != PAD],
            }
            for source, target in zip(batch.source.tolist(), batch.target.tolist(), strict=True)
        ]
