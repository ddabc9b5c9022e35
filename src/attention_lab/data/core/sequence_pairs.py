"""What datasets of source and target sequences have in common."""

from abc import abstractmethod

from torchmetrics import Metric

from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.splits import SplitDataModule
from attention_lab.data.core.vocabulary import PAD, TextVocabulary


class SequencePairsData(SplitDataModule[SequencePairs]):
    """A dataset for sequence-to-sequence models, which says when a written sequence is right."""

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
        """A new metric of written sequences.

        Its ``update`` takes token ids (a list for each example) and the references of each
        example; its ``compute`` gives a tensor () by name. Where it has ``bounds``, the smallest
        and the greatest value of a metric by its name, intervals in a report respect them.
        """

    def scores(self, written: list[list[int]], split: str) -> dict[str, float]:
        """The metrics of having written these sequences for a split, a list of token ids a row."""
        metric = self.metric()
        metric.update(written, self.references(split))
        return {name: float(value) for name, value in metric.compute().items()}

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the two vocabularies."""
        return {
            "source_vocabulary": len(self.source_vocabulary),
            "target_vocabulary": len(self.target_vocabulary),
        }

    def labels(self, batch: SequencePairs) -> list[dict[str, list[str]]]:
        """The tokens read, and those that the decoder positions write, ``</s>`` included."""
        return [
            {
                "source": [self.source_vocabulary.token(id) for id in source if id != PAD],
                "target": [self.target_vocabulary.token(id) for id in target[1:] if id != PAD],
            }
            for source, target in zip(batch.source.tolist(), batch.target.tolist(), strict=True)
        ]
