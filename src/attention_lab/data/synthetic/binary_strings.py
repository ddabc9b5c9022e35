"""The base class of classification tasks on strings of a and b."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.classification import ClassificationDataModule
from attention_lab.data.core.slices import Slices, by_length
from attention_lab.data.core.vocabulary import PAD, Characters
from attention_lab.data.synthetic.generated import GeneratedDataModule, check_range

ALPHABET = Characters("ab")
A, B = ALPHABET.encode("ab")


class BinaryStrings(GeneratedDataModule[LabelledSequences], ClassificationDataModule):
    """Strings of a and b, classified by whether a count is even (class 0) or odd (class 1).

    A subclass defines the count in ``odd``. The length is drawn uniformly, then each symbol
    uniformly.

    Args:
        examples: number of training examples.
        evaluation_examples: number of validation examples, and of test examples.
        lengths: shortest and longest string in training and validation.
        test_lengths: shortest and longest string in test.
        batch_size: largest number of examples in a batch, per process.
        draw_seed: seed of the examples.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a value is out of range; while loading, if there are too few strings.
    """

    text_vocabulary = ALPHABET
    #: The names of the classes.
    classes = ("even", "odd")

    def __init__(
        self,
        examples: int = 50_000,
        evaluation_examples: int = 2_000,
        lengths: Sequence[int] = (1, 40),
        test_lengths: Sequence[int] = (41, 100),
        batch_size: int = 128,
        draw_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(examples, evaluation_examples, batch_size, draw_seed, seed)
        trained = check_range("lengths", lengths)
        tested = check_range("test_lengths", test_lengths)
        self.ranges = {"train": trained, "validation": trained, "test": tested}

    @abstractmethod
    def odd(self, is_b: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the count is odd in each string, (N,).

        Args:
            is_b: whether each symbol is b, (N, longest); False after the end.
            lengths: lengths of the strings, (N,).
        """

    def draw(self, random: np.random.Generator, count: int, split: str) -> LabelledSequences:
        shortest, longest = self.ranges[split]
        lengths = random.integers(shortest, longest + 1, size=count)
        real = np.arange(longest) < lengths[:, None]
        is_b = random.integers(2, size=(count, longest), dtype=np.int8).astype(bool) & real
        inputs = np.where(is_b, B, np.where(real, A, PAD))
        labels = self.odd(is_b, lengths).astype(np.int64)
        return LabelledSequences(torch.from_numpy(inputs), torch.from_numpy(labels))

    def identity(self, batch: LabelledSequences) -> Tensor:
        return batch.inputs

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary, of the set of classes, and of the longest string."""
        longest = max(longest for _, longest in self.ranges.values())
        return {
            "vocab_size": len(ALPHABET),
            "num_classes": len(self.classes),
            "max_length": longest,
        }

    def slices(self, split: str) -> Slices:
        """By length."""
        return by_length(
            *self.ranges[split],
            lambda batch: batch.lengths()[:, 0],
            trained=self.ranges["train"],
        )

    def position_labels(self, batch: LabelledSequences) -> list[dict[str, list[str]]]:
        """The symbols of each string."""
        return [{"input": ALPHABET.ids_to_tokens(row)} for row in batch.inputs.tolist()]
