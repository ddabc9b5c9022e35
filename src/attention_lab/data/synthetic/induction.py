"""Induction: predict the token that followed an earlier occurrence of the current token."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.data.core.slices import Slices, by_length
from attention_lab.data.synthetic.generated import GeneratedDataModule, check_range


class Induction(GeneratedDataModule[LabelledPositions], LanguageModelDataModule):
    """Continue a repeated random segment (Olsson et al. 2022).

    Example, with a segment of 3 in 8 tokens: 5 2 7 5 2 7 5 2 → 2 7 5 2 7 at the last five.

    After "In-context learning and induction heads", arXiv 2209.11895, which repeats a sequence of
    random tokens to find induction heads: they attend to the token after an earlier occurrence of
    the current token. Two layers of attention are necessary, since keys of the first layer depend
    on one token and its position only. Deviations: the model is trained on the task itself, and
    segments differ in length. With equal lengths the answer would be at a fixed distance, and a
    single layer could find it by position.

    Labels begin at the second token of the first repetition, because it is not predictable where
    the repetition starts.

    Known shortcuts (``shortcut_baselines``): "fixed distance" predicts the token at the distance
    that is most often right in training. "last match" predicts the token after the last occurrence
    of the current token, as an induction head does. It fails where a token occurs more than once in
    a segment; in larger vocabularies, such tokens are rarer.

    Args:
        examples: number of training examples.
        evaluation_examples: number of validation examples, and of test examples.
        vocab_size: V, the number of tokens. Each position of a segment is one of them, uniformly.
        length: T, number of tokens in an example.
        periods: number of tokens in the shortest and in the longest segment, drawn uniformly.
        batch_size: largest number of examples in a batch, per process.
        draw_seed: seed of the examples.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a value is out of range, or the longest segment does not repeat.
    """

    monitor = "accuracy"
    mode = "max"

    def __init__(
        self,
        examples: int = 80_000,
        evaluation_examples: int = 1_000,
        vocab_size: int = 32,
        length: int = 48,
        periods: Sequence[int] = (8, 16),
        batch_size: int = 64,
        draw_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(examples, evaluation_examples, batch_size, draw_seed, seed)
        self.shortest_period, self.longest_period = check_range("periods", periods)
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
        if self.longest_period >= length:
            raise ValueError(
                f"periods={list(periods)} must be below length={length}, or nothing is repeated"
            )
        self.vocab_size, self.length = vocab_size, length

    def draw(self, random: np.random.Generator, count: int, split: str) -> LabelledPositions:
        periods = random.integers(self.shortest_period, self.longest_period + 1, size=(count, 1))
        segments = random.integers(self.vocab_size, size=(count, self.longest_period))
        places = np.arange(self.length + 1)
        tokens = np.take_along_axis(segments, places % periods, axis=1)
        labels = np.where(places[:-1] < periods, IGNORE, tokens[:, 1:])
        lengths = np.full(count, self.length)
        return LabelledPositions(*map(torch.from_numpy, (tokens[:, :-1], labels, lengths)))

    def identity(self, batch: LabelledPositions) -> Tensor:
        return batch.inputs

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary and of an input."""
        return {"vocab_size": self.vocab_size, "max_length": self.length}

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Accuracy of predicting one of the tokens so far at random."""
        inputs, labels = self._rows(split)
        places = np.arange(self.length)
        shares = np.zeros(labels.shape)
        for place in places:
            counts = (inputs[:, : place + 1] == labels[:, place, None]).sum(1)
            shares[:, place] = counts / (place + 1)
        return {"accuracy": float(shares[labels != IGNORE].mean())}

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy with the best fixed distance, and with the last match of the current token."""
        train = self._rows("train")
        distances = range(self.shortest_period, self.longest_period + 1)
        right = [_rate(_before(train[0], distance), train[1]) for distance in distances]
        inputs, labels = self._rows(split)
        fixed = _before(inputs, distances[int(np.argmax(right))])
        return {
            "fixed distance": {"accuracy": _rate(fixed, labels)},
            "last match": {"accuracy": _rate(_after_last_match(inputs), labels)},
        }

    def slices(self, split: str) -> Slices:
        """By length of the segment, which is the number of positions without a label."""
        return by_length(
            self.shortest_period,
            self.longest_period,
            lambda batch: (batch.labels == IGNORE).sum(1),
            what="period",
        )

    def position_labels(self, batch: LabelledPositions) -> list[dict[str, list[str]]]:
        """The tokens as numbers."""
        return [{"input": [str(token) for token in row]} for row in batch.inputs.tolist()]

    def _rows(self, split: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and labels of a split, (N, T) both."""
        rows = self.split(split)
        return rows.inputs.numpy(), rows.labels.numpy()


def _rate(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    return float((answers == labels)[labels != IGNORE].mean())


def _before(inputs: NDArray[np.int64], distance: int) -> NDArray[np.int64]:
    """For each position the token ``distance`` before the next position, or -1, (N, T)."""
    answers = np.full(inputs.shape, -1)
    answers[:, distance - 1 :] = inputs[:, : inputs.shape[1] - distance + 1]
    return answers


def _after_last_match(inputs: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each position the token after the last occurrence of the same token, or -1, (N, T)."""
    answers = np.full(inputs.shape, -1)
    for place in range(1, inputs.shape[1]):
        for earlier in range(place):  # the last one overwrites earlier ones
            same = inputs[:, earlier] == inputs[:, place]
            answers[same, place] = inputs[same, earlier + 1]
    return answers
