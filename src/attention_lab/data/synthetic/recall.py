"""Multi-query associative recall (MQAR): recall the value that belongs to a key."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.data.core.slices import Slices
from attention_lab.data.synthetic.generated import GeneratedDataModule, sample_without_replacement


class Recall(GeneratedDataModule[LabelledPositions], LanguageModelDataModule):
    """Key–value pairs, then the keys: recall their values (Arora et al. 2023, MQAR).

    Example, with 2 pairs in 10 tokens of a vocabulary of 16: 4 11 7 9 · · 7 · 4 · → 9 at the
    second 7, 11 at the second 4, where · is any token.

    As published (Zoology, arXiv 2312.04927, appendix E.1 and its code): keys are from 1 to V/2 − 1
    and values from V/2 to V − 1, each without repetition. The sequence begins with the pairs. Each
    key then occurs once more, at an even distance 2g after the pairs. The numbers g = 0, 1, … are
    drawn without repetition, with probabilities in proportion to a (g + 1)^(a − 1). Other positions
    have random tokens. The label of the second occurrence of each key is its value.

    Known shortcut: the answer is one of the values in the sequence, so a model that cannot match
    keys has an accuracy of 1 / ``pairs``. This is the trivial baseline. There is no other shortcut:
    each value is the answer once, and keys and positions are drawn independently of the values.

    Args:
        examples: number of training examples, about as many for each of the ``lengths``.
        evaluation_examples: number of validation examples, and of test examples.
        vocab_size: V, the number of tokens. Even.
        lengths: number of tokens in an example; several lengths are mixed.
        pairs: number of pairs, for each of the lengths.
        power: a; the smaller, the closer the second occurrences are to the pairs.
        random_fill: whether other positions have random tokens; otherwise 0.
        batch_size: largest number of examples in a batch, per process.
        draw_seed: seed of the examples.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a value is out of range, or there are too many pairs for the length or for
            the vocabulary.
    """

    monitor = "accuracy"
    mode = "max"

    def __init__(
        self,
        examples: int = 100_000,
        evaluation_examples: int = 3_000,
        vocab_size: int = 8192,
        lengths: Sequence[int] = (64,),
        pairs: Sequence[int] = (4,),
        power: float = 0.01,
        random_fill: bool = True,
        batch_size: int = 512,
        draw_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(examples, evaluation_examples, batch_size, draw_seed, seed)
        self.mixture = list(zip(lengths, pairs, strict=True)) if len(lengths) == len(pairs) else []
        if not self.mixture:
            raise ValueError(
                f"lengths={list(lengths)} and pairs={list(pairs)} must have equally many values"
            )
        if vocab_size % 2 or vocab_size < 4:
            raise ValueError(f"vocab_size must be even and at least 4, got {vocab_size}")
        for length, count in self.mixture:
            if count < 1 or length % 2 or 4 * count > length:
                raise ValueError(
                    f"{count} pairs in {length} tokens: 4 × pairs must fit into an even length"
                )
            if count > vocab_size // 2 - 1:
                raise ValueError(f"vocab_size={vocab_size} has no {count} different keys")
        if power <= 0:
            raise ValueError(f"power must be above 0, got {power}")
        self.vocab_size, self.power, self.random_fill = vocab_size, power, random_fill

    def draw(self, random: np.random.Generator, count: int, split: str) -> LabelledPositions:
        longest = max(length for length, _ in self.mixture)
        inputs = np.zeros((count, longest), dtype=np.int64)
        labels = np.full((count, longest), IGNORE)
        lengths = np.empty(count, dtype=np.int64)
        for part, (length, pairs) in enumerate(self.mixture):
            rows = slice(part, None, len(self.mixture))
            inputs[rows, :length], labels[rows, :length] = self._drawn_pairs(
                random, len(inputs[rows]), length, pairs
            )
            lengths[rows] = length
        return LabelledPositions(*map(torch.from_numpy, (inputs, labels, lengths)))

    def identity(self, batch: LabelledPositions) -> Tensor:
        return batch.inputs

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary and of the longest input."""
        return {
            "vocab_size": self.vocab_size,
            "max_length": max(length for length, _ in self.mixture),
        }

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Accuracy of predicting a random value of the sequence: the mean of 1 / pairs."""
        asked = (self.split(split).labels != IGNORE).sum(1).double()
        return {"accuracy": float(len(asked) / asked.sum())}

    def slices(self, split: str) -> Slices | None:
        """By length and number of pairs, if several are mixed."""
        kinds = sorted(set(self.mixture))
        if len(kinds) == 1:
            return None

        def slice_of(batch: LabelledPositions) -> Tensor:
            of_each = torch.stack([batch.length, (batch.labels != IGNORE).sum(1)], dim=1)
            known = torch.tensor(kinds, device=of_each.device)
            return (of_each.unsqueeze(1) == known).all(2).int().argmax(1)

        return Slices([f"length={length},pairs={pairs}" for length, pairs in kinds], slice_of)

    def position_labels(self, batch: LabelledPositions) -> list[dict[str, list[str]]]:
        """The tokens as numbers."""
        rows = zip(batch.inputs.tolist(), batch.length.tolist(), strict=True)
        return [{"input": [str(token) for token in row[:length]]} for row, length in rows]

    def _drawn_pairs(
        self, random: np.random.Generator, count: int, length: int, pairs: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        half, context = self.vocab_size // 2, 2 * pairs
        keys = 1 + sample_without_replacement(random, count, half - 1, pairs)
        values = half + sample_without_replacement(random, count, half, pairs)
        places = np.arange(1, (length - context) // 2 + 1)
        weights = self.power * places ** (self.power - 1)
        # Exponential variates with these rates, sorted: the indices of the smallest are a weighted
        # sample without replacement (Efraimidis & Spirakis 2006).
        waits = random.standard_exponential((count, len(places))) / weights
        asked = context + 2 * waits.argsort(1)[:, :pairs]
        inputs = np.zeros((count, length), dtype=np.int64)
        inputs[:, 0:context:2], inputs[:, 1:context:2] = keys, values
        np.put_along_axis(inputs, asked, keys, axis=1)
        if self.random_fill:
            fill = random.integers(self.vocab_size, size=inputs.shape)
            inputs = np.where(inputs == 0, fill, inputs)
        labels = np.full((count, length), IGNORE)
        np.put_along_axis(labels, asked, values, axis=1)
        return inputs, labels
