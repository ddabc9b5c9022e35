"""The base class of datasets that are drawn by a seeded generator."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.argument_checks import check_positive
from attention_lab.data.core.batches import Batch, BatchT
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.core.hashing import splitmix64
from attention_lab.data.core.splits import SPLITS
from attention_lab.memory import check_fits

#: The shares of all possible examples that belong to training, validation and test.
SHARES = (0.8, 0.1, 0.1)
#: Drawing a split stops after so many times the draws that are usually enough.
_MAX_ROUNDS = 50
_ROWS_PER_HASH = 256  # few, as hashing needs several times the memory of the rows


class GeneratedDataModule(SplitDataModule[BatchT]):
    """A dataset that draws its examples at random; they are the same on every machine.

    The split of an example depends on a hash of the example, so splits share no example. An example
    may repeat within a split.

    Args:
        examples: number of training examples.
        evaluation_examples: number of validation examples, and of test examples.
        batch_size: largest number of examples in a batch, per process.
        draw_seed: seed of the examples.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a number is below 1, or a seed is below 0.
    """

    def __init__(
        self, examples: int, evaluation_examples: int, batch_size: int, draw_seed: int, seed: int
    ) -> None:
        super().__init__(batch_size, seed)
        check_positive(examples=examples, evaluation_examples=evaluation_examples)
        if draw_seed < 0:
            raise ValueError(f"draw_seed must be at least 0, got {draw_seed}")
        self.examples, self.evaluation_examples = examples, evaluation_examples
        self.draw_seed = draw_seed

    #: The most examples drawn at once.
    max_draws: ClassVar[int] = 2**18

    @abstractmethod
    def draw(self, random: np.random.Generator, count: int, split: str) -> BatchT:
        """Draw examples for a split; the widths of their tensors depend on the split only."""

    @abstractmethod
    def identity(self, batch: BatchT) -> Tensor:
        """Integers (N, W); two examples are the same if these are. Trailing zeros are ignored."""

    def load(self) -> dict[str, BatchT]:
        """Draw every split.

        Raises:
            ValueError: if too few different examples exist for a split.
        """
        return {
            "train": self._draw_split("train", self.examples),
            "validation": self._draw_split("validation", self.evaluation_examples),
            "test": self._draw_split("test", self.evaluation_examples),
        }

    def _draw_split(self, split: str, wanted: int) -> BatchT:
        number = SPLITS.index(split)
        random = np.random.default_rng((self.draw_seed, number))
        draws_left = _MAX_ROUNDS * _num_draws(wanted, number)
        kept: BatchT | None = None
        found = 0
        while found < wanted:
            if draws_left <= 0:
                raise ValueError(
                    f"found only {found} of {wanted} {split} examples, since too few different "
                    "ones exist; allow longer ones, or more symbols"
                )
            batch = self.draw(
                random, min(_num_draws(wanted - found, number), self.max_draws), split
            )
            splits = [split_of(part.numpy()) for part in self.identity(batch).split(_ROWS_PER_HASH)]
            draws_left -= sum(map(len, splits))
            is_in_split = torch.from_numpy(np.concatenate(splits) == number)
            rows = is_in_split.nonzero().flatten()[: wanted - found]
            # Filled in place: concatenation would need twice the memory.
            if kept is None:
                _check_memory(batch, wanted, "examples" if number == 0 else "evaluation_examples")
                kept = _empty_batch(batch, wanted)
            for all_rows, drawn in zip(_tensors(kept), _tensors(batch), strict=True):
                all_rows[found : found + len(rows)] = drawn[rows]
            found += len(rows)
        assert kept is not None
        return kept


def split_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The split (0, 1 or 2) of each row (N, W), by a hash of the row.

    It is the same on every machine; trailing zeros are ignored.
    """
    factors = splitmix64(np.arange(1, rows.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    hashes = splitmix64((splitmix64(rows.astype(np.uint64)) * factors * (rows != 0)).sum(1))
    return np.searchsorted(np.cumsum(SHARES[:2]), hashes / 2.0**64, side="right")


def sample_without_replacement(
    random: np.random.Generator, rows: int, choices: int, size: int
) -> NDArray[np.int64]:
    """Samples of ``size`` different numbers below ``choices``, (rows, size), in random order.

    All samples are equally likely: Floyd's algorithm (Bentley & Floyd 1987, "A sample of
    brilliance") for all rows at once, then a shuffle.
    """
    chosen = np.empty((rows, size), dtype=np.int64)
    for taken, last in enumerate(range(choices - size, choices)):
        candidate = random.integers(last + 1, size=rows)
        known = (chosen[:, :taken] == candidate[:, None]).any(1)
        chosen[:, taken] = np.where(known, last, candidate)
    return random.permuted(chosen, axis=1)


def check_range(name: str, ends: Sequence[int]) -> tuple[int, int]:
    """A range of lengths or other numbers, as a tuple.

    Raises:
        ValueError: unless it has two numbers ≥ 1, the smaller first.
    """
    if len(ends) != 2 or not 1 <= ends[0] <= ends[1]:
        raise ValueError(
            f"{name} must be two numbers of at least 1, the smaller first; got {list(ends)}"
        )
    return ends[0], ends[1]


def _num_draws(wanted: int, number: int) -> int:
    """The number of draws that most probably have enough examples of a split."""
    return round(1.05 * wanted / SHARES[number]) + 10


def _check_memory(batch: Batch, rows: int, name: str) -> None:
    """Raise TooLarge if ``rows`` rows like those of a batch do not fit into memory."""
    size = rows * sum(part[0].nbytes for part in _tensors(batch))
    check_fits(f"data.{name}={rows} needs", size)


def _empty_batch(batch: BatchT, rows: int) -> BatchT:
    """A batch of ``rows`` rows that are not filled yet, like the given batch."""
    return type(batch)(*(part.new_empty((rows, *part.shape[1:])) for part in _tensors(batch)))


def _tensors(batch: Batch) -> Iterable[Tensor]:
    # A batch is a tuple of tensors; a field that only `select` computes is None here.
    return (x for x in cast("Iterable[Tensor | None]", batch) if x is not None)
