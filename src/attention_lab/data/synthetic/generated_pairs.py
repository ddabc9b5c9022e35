"""The base classes of generated sequence-to-sequence datasets."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.sequence_metrics import Reference, SequenceMetrics
from attention_lab.data.core.sequence_to_sequence import SequenceToSequenceDataModule
from attention_lab.data.core.slices import Slices, by_length
from attention_lab.data.core.splits import check_split
from attention_lab.data.core.vocabulary import BOS, EOS, PAD, Words
from attention_lab.data.synthetic.generated import GeneratedDataModule, check_range

#: Indices of tokens in the lists of all tokens, (N, W), and the length of each row, (N, 1).
Rows = tuple[NDArray[np.int64], NDArray[np.int64]]


class GeneratedPairs(GeneratedDataModule[SequencePairs], SequenceToSequenceDataModule):
    """A dataset of generated pairs of sequences; the source determines the target.

    Validation has the lengths of training, so that longer sequences do not influence the choice of
    a checkpoint; test has lengths of its own. A subclass implements ``pairs``.

    Args:
        source_tokens: all tokens of sources.
        target_tokens: all tokens of targets.
        lengths: smallest and largest length (``length_of``) in training and validation.
        test_lengths: smallest and largest length in test.
        options: further arguments of :class:`GeneratedDataModule`.

    Raises:
        ValueError: if a value is out of range.
    """

    monitor = "sequence_accuracy"
    mode = "max"

    source_vocabulary: Words
    target_vocabulary: Words

    def __init__(
        self,
        source_tokens: Sequence[str],
        target_tokens: Sequence[str],
        lengths: Sequence[int],
        test_lengths: Sequence[int],
        **options: int,
    ) -> None:
        super().__init__(**options)
        trained = check_range("lengths", lengths)
        self.lengths = {
            "train": trained,
            "validation": trained,
            "test": check_range("test_lengths", test_lengths),
        }
        self.source_vocabulary, self.target_vocabulary = Words(source_tokens), Words(target_tokens)
        # Pairs are drawn as indices of these lists, but a vocabulary sorts its tokens.
        self._source_ids = np.array(self.source_vocabulary.tokens_to_ids(source_tokens))
        self._target_ids = np.array(self.target_vocabulary.tokens_to_ids(target_tokens))
        self._references: dict[str, list[list[Reference]]] = {}

    @abstractmethod
    def pairs(
        self, random: np.random.Generator, count: int, shortest: int, longest: int
    ) -> tuple[Rows, Rows]:
        """Draw sources and targets; their widths depend on the longest length only."""

    def length_of(self, batch: SequencePairs) -> Tensor:
        """The length that ``lengths`` bounds, for each example of a batch, (B,) int64."""
        return batch.lengths()[:, 0]

    def load(self) -> dict[str, SequencePairs]:
        splits = super().load()
        return {
            name: split._replace(index=torch.arange(len(split.source)))
            for name, split in splits.items()
        }

    def draw(self, random: np.random.Generator, count: int, split: str) -> SequencePairs:
        (sources, source_lengths), (targets, target_lengths) = self.pairs(
            random, count, *self.lengths[split]
        )
        source = np.full(sources.shape, PAD)
        _fill(source, self._source_ids, sources, source_lengths)
        target = np.full((count, targets.shape[1] + 2), PAD)
        target[:, 0] = BOS
        _fill(target[:, 1:], self._target_ids, targets, target_lengths)
        np.put_along_axis(target, target_lengths + 1, EOS, axis=1)
        return SequencePairs(
            torch.from_numpy(source), torch.from_numpy(target), torch.arange(count)
        )

    def identity(self, batch: SequencePairs) -> Tensor:
        return batch.source

    def references(self, split: str) -> list[list[Reference]]:
        """The target of each row of a split."""
        if check_split(split) not in self._references:
            rows = self.split(split)
            lengths = (rows.lengths()[:, 1] - 1).tolist()  # up to EOS
            self._references[split] = [
                [tuple(ids[1:length])]
                for ids, length in zip(rows.target.tolist(), lengths, strict=True)
            ]
        return self._references[split]

    def metric(self) -> SequenceMetrics:
        """Sequence accuracy and token error rate."""
        return SequenceMetrics(["sequence_accuracy", "token_error_rate"])

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Accuracy and error rate of predictions from the length of the source alone.

        For each length of sources in training, the prediction has the most frequent length of the
        targets, and the most frequent token at each position. Other lengths use the nearest one.
        """
        predictions = self._predictions_by_length()
        lengths = self.split(split).lengths()[:, 0].tolist()
        return self.scores(
            [predictions[min(predictions, key=lambda known: abs(known - n))] for n in lengths],
            split,
        )

    def slices(self, split: str) -> Slices:
        """By length; lengths of training and other lengths are in different slices."""
        shortest, longest = self.lengths[check_split(split)]
        return by_length(shortest, longest, self.length_of, trained=self.lengths["train"])

    def _predictions_by_length(self) -> dict[int, list[int]]:
        """The predictions of the trivial baseline, by the length of the source."""
        train = self.split("train")
        lengths = train.lengths()
        predictions = {}
        for read in lengths[:, 0].unique().tolist():
            rows = lengths[:, 0] == read
            most = int((lengths[rows, 1] - 2).bincount().argmax())  # without BOS and EOS
            columns = train.target[rows, 1 : most + 1].T
            predictions[read] = [
                int(column[column > EOS].bincount().argmax()) for column in columns
            ]
        return predictions


class SymbolPairs(GeneratedPairs):
    """A dataset of sequences of random symbols, 0 to ``symbols`` − 1, and their targets.

    Args:
        examples: number of training examples.
        evaluation_examples: number of validation examples, and of test examples.
        symbols: number of different symbols; the symbol of each position is drawn uniformly.
        lengths: smallest and largest number of symbols in training and validation, drawn uniformly.
        test_lengths: the same in test.
        batch_size: largest number of examples in a batch, per process.
        draw_seed: seed of the examples.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        examples: int = 50_000,
        evaluation_examples: int = 1_000,
        symbols: int = 50,
        lengths: Sequence[int] = (1, 25),
        test_lengths: Sequence[int] = (1, 30),
        batch_size: int = 128,
        draw_seed: int = 0,
        seed: int = 0,
    ) -> None:
        if symbols < 2:
            raise ValueError(f"symbols must be at least 2, got {symbols}")
        tokens = [str(symbol) for symbol in range(symbols)]
        super().__init__(
            tokens,
            tokens,
            lengths,
            test_lengths,
            examples=examples,
            evaluation_examples=evaluation_examples,
            batch_size=batch_size,
            draw_seed=draw_seed,
            seed=seed,
        )
        self.symbols = symbols

    def copies(self, split: str) -> list[list[int]]:
        """The sources of a split without padding, as predictions of a copy."""
        return [[id for id in row if id != PAD] for row in self.split(split).source.tolist()]

    @abstractmethod
    def origins(self, symbols: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The source position of each target symbol, (N, W); values after the end are ignored.

        Args:
            symbols: (N, W), the sources.
            lengths: (N, 1), the length of each row.
        """

    def alignments(self, batch: SequencePairs) -> Tensor:
        """Each target symbol with the source symbol that it is a copy of."""
        lengths, places = batch.lengths()[:, :1].numpy(), np.arange(batch.source.shape[1])
        symbol_of = np.zeros(len(self.source_vocabulary), dtype=np.int64)
        symbol_of[self._source_ids] = np.arange(self.symbols)
        origins = self.origins(symbol_of[batch.source.numpy()], lengths)
        links = (origins[:, :, None] == places) & (places < lengths)[:, :, None]
        return torch.from_numpy(links)

    def pairs(
        self, random: np.random.Generator, count: int, shortest: int, longest: int
    ) -> tuple[Rows, Rows]:
        lengths = random.integers(shortest, longest + 1, size=(count, 1))
        symbols = random.integers(self.symbols, size=(count, longest))
        targets = np.take_along_axis(symbols, self.origins(symbols, lengths), axis=1)
        return (symbols, lengths), (targets, lengths)


def backwards(numbers: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows (N, W) in reverse order; values after the end are ignored."""
    places = (lengths - 1 - np.arange(numbers.shape[1])).clip(min=0)
    return np.take_along_axis(numbers, places, axis=1)


def _fill(
    ids: NDArray[np.int64],
    id_of: NDArray[np.int64],
    numbers: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Replace the start of each row of ``ids`` by the ids of its tokens, up to its length."""
    counts = np.arange(numbers.shape[1]) < lengths
    ids[:, : numbers.shape[1]][counts] = id_of[numbers[counts]]
