"""Addition: the sum of two numbers, digit by digit."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.vocabulary import PAD
from attention_lab.data.synthetic.generated_pairs import GeneratedPairs, Rows, backwards

DIGITS = [str(digit) for digit in range(10)]
PLUS = len(DIGITS)


class Addition(GeneratedPairs):
    """Two numbers and their sum, in decimal digits (Lee et al. 2023).

    Example: 9 5 + 7 → 1 0 2, or with ``reversed`` 5 9 + 7 → 2 0 1.

    After "Teaching arithmetic to small transformers", arXiv 2307.03381, where a language model
    learns sums of up to three digits. The length of each number is drawn uniformly, then the
    number, without leading zeros. With ``reversed``, the two numbers and the sum begin with the
    least significant digit, as in McLeish et al. 2024, "Transformers can do arithmetic with the
    right embeddings", arXiv 2405.17399 (Lee et al. reverse the sum only). Then each digit of the
    sum depends only on the digits up to its place; otherwise the first digit depends on all digits.

    a + b and b + a are in the same split.

    Known shortcut (``shortcut_baselines``): "no carry" adds each pair of digits without carrying.

    Args:
        examples: number of training examples.
        evaluation_examples: number of validation examples, and of test examples.
        lengths: fewest and most digits of each number in training and validation.
        test_lengths: the same in test.
        reversed: whether numbers begin with their least significant digit.
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
        lengths: Sequence[int] = (1, 5),
        test_lengths: Sequence[int] = (1, 7),
        reversed: bool = False,
        batch_size: int = 128,
        draw_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            [*DIGITS, "+"],
            DIGITS,
            lengths,
            test_lengths,
            examples=examples,
            evaluation_examples=evaluation_examples,
            batch_size=batch_size,
            draw_seed=draw_seed,
            seed=seed,
        )
        self.reversed = reversed

    def pairs(
        self, random: np.random.Generator, count: int, shortest: int, longest: int
    ) -> tuple[Rows, Rows]:
        one, other = (_drawn_number(random, count, shortest, longest) for _ in range(2))
        total = _sum(one, other)
        return _joined(self._in_order(one), self._in_order(other)), self._in_order(total)

    def identity(self, batch: SequencePairs) -> Tensor:
        one, other = self._operands(batch)
        rows = torch.arange(len(one))
        first = (one != other).int().argmax(1)
        swapped = (one[rows, first] < other[rows, first]).unsqueeze(1)
        ordered = (torch.where(swapped, other, one), torch.where(swapped, one, other))
        return torch.stack(ordered, dim=2).flatten(1)  # interleaved: zeros are at the end only

    def length_of(self, batch: SequencePairs) -> Tensor:
        """The number of digits of the longer number, (B,) int64."""
        one, other = ((digits != PAD).sum(1) for digits in self._operands(batch))
        return torch.maximum(one, other)

    def alignments(self, batch: SequencePairs) -> Tensor:
        """Each digit of the sum with the digits of both numbers in the same decimal place."""
        source, target = batch.lengths().unsqueeze(2).unbind(1)
        plus = (batch.source == int(self._source_ids[PLUS])).int().argmax(1, keepdim=True)
        places = torch.arange(max(batch.source.shape[1], batch.target.shape[1]))
        first = self._decimal_places(places, plus)
        second = self._decimal_places(places - plus - 1, source - plus - 1)
        digits = torch.maximum(first, second)[:, None, : batch.source.shape[1]]
        total = self._decimal_places(places, target - 2)[:, : batch.target.shape[1] - 1, None]
        return (digits == total) & (total >= 0)

    def _decimal_places(self, positions: Tensor, length: Tensor) -> Tensor:
        """The decimal place of the digit at each position of a number; −1 outside of it."""
        places = positions if self.reversed else length - 1 - positions
        return places.where((positions >= 0) & (positions < length), -1)

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy and error rate of adding without carrying."""
        texts = map(self.source_vocabulary.ids_to_tokens, self.split(split).source.tolist())
        predicted = [
            self.target_vocabulary.tokens_to_ids(self._without_carries(text)) for text in texts
        ]
        return {"no carry": self.scores(predicted, split)}

    def _without_carries(self, tokens: list[str]) -> list[str]:
        """The digits of the sum without carries, in the order of the target."""
        step = 1 if self.reversed else -1
        one, other = "".join(tokens).split("+")
        pairs = zip_longest(one[::step], other[::step], fillvalue="0")
        return [str((int(a) + int(b)) % 10) for a, b in pairs][::step]

    def _in_order(self, number: Rows) -> Rows:
        digits, lengths = number
        return (digits if self.reversed else backwards(digits, lengths)), lengths

    def _operands(self, batch: SequencePairs) -> tuple[Tensor, Tensor]:
        """The ids of the digits of both numbers, padded with PAD, (B, W) each."""
        source = batch.source
        plus = (source == int(self._source_ids[PLUS])).int().argmax(1, keepdim=True)
        places = torch.arange(source.shape[1], device=source.device).expand_as(source)
        behind = places + plus + 1
        rest = source.gather(1, behind.clamp(max=source.shape[1] - 1))
        return source * (places < plus), rest * (behind < source.shape[1])


def _drawn_number(random: np.random.Generator, count: int, shortest: int, longest: int) -> Rows:
    """The digits of random numbers, least significant first, padded with zeros, and the lengths."""
    lengths = random.integers(shortest, longest + 1, size=(count, 1))
    leading = np.where(lengths > 1, random.integers(1, 10, size=lengths.shape), 0)
    leading = np.where(lengths == 1, random.integers(10, size=lengths.shape), leading)
    digits = random.integers(10, size=(count, longest)) * (np.arange(longest) < lengths)
    np.put_along_axis(digits, lengths - 1, leading, axis=1)
    return digits, lengths


def _sum(one: Rows, other: Rows) -> Rows:
    """The sum of two numbers in each row, digit by digit, so that their size has no limit."""
    columns = one[0] + other[0]
    total = np.zeros((len(columns), columns.shape[1] + 1), dtype=np.int64)
    for place in range(columns.shape[1]):
        total[:, place] += columns[:, place]
        total[:, place + 1] = total[:, place] // 10
        total[:, place] %= 10
    lengths = np.maximum(one[1], other[1])
    return total, lengths + np.take_along_axis(total, lengths, axis=1)  # the last carry is 0 or 1


def _joined(one: Rows, other: Rows) -> Rows:
    """Both numbers, separated by a plus."""
    (first, first_length), (second, second_length) = one, other
    length = first_length + 1 + second_length
    joined = np.full((len(first), 2 * first.shape[1] + 1), PLUS)
    places, within = np.arange(joined.shape[1]), np.arange(first.shape[1])
    joined[places < first_length] = first[within < first_length]
    joined[(places > first_length) & (places < length)] = second[within < second_length]
    return joined, length
