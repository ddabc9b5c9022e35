"""The base class of datasets for sequence-to-sequence models."""

from abc import abstractmethod

from torchmetrics import Metric

from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.core.vocabulary import PAD, TextVocabulary


class SequenceToSequenceDataModule(SplitDataModule[SequencePairs]):
    """A dataset of source sequences, each with one or several target sequences."""

    task = "sequence_to_sequence"
    vocabularies = ("source_vocabulary", "target_vocabulary")

    source_vocabulary: TextVocabulary
    target_vocabulary: TextVocabulary

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
