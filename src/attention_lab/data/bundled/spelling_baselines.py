"""Baselines for G2P: they predict the phonemes of a word from counts in the training words."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.vocabulary import PAD


class SpellingBaselines:
    """Predicts the phonemes of words from counts in the training words.

    Each ``by_…`` method takes letter ids (N, S), padded with PAD, and returns a list of phoneme ids
    for each word.

    Args:
        train: the training words and their pronunciations, between BOS and EOS.
        letters: number of letter ids, at most 256.
        phonemes: number of phoneme ids, at most 256.
    """

    def __init__(self, train: SequencePairs, letters: int, phonemes: int) -> None:
        self.train, self.letters, self.phonemes = train, letters, phonemes

    def by_letter(self, source: Tensor) -> list[list[int]]:
        """The most frequent phoneme of each letter."""
        return _without_padding(self._phonemes_of_letters(source))

    def by_neighbours(self, source: Tensor) -> list[list[int]]:
        """The most frequent phoneme of each letter between its two neighbours.

        If the three letters do not occur in training, it is that of the letter alone.
        """

        def three(source: Tensor) -> Tensor:
            before, behind = F.pad(source, (1, -1)), F.pad(source, (-1, 1))
            kinds = (source * self.letters + before) * self.letters + behind
            return torch.where(source == PAD, PAD, kinds)

        phonemes = self._most_frequent_phonemes(three)[three(source)]
        letters = self._phonemes_of_letters(source)
        return _without_padding(torch.where(phonemes == PAD, letters, phonemes))

    def by_trained_stem(self, source: Tensor, otherwise: list[list[int]]) -> list[list[int]]:
        """The pronunciation of a word's stem, then that of its ending.

        The stem is the longest beginning that is a training word. The ending gets its most frequent
        pronunciation after stems in training.

        Args:
            source: the letter ids.
            otherwise: the predictions for words without a known stem and ending.
        """
        known, endings = self._trained_stems
        return [
            next(
                (
                    [*known[word[:cut]], *endings[word[cut:]]]
                    for cut in range(len(word) - 1, 0, -1)
                    if word[:cut] in known and word[cut:] in endings
                ),
                default,
            )
            for word, default in zip(_rows(source), otherwise, strict=True)
        ]

    def _phonemes_of_letters(self, source: Tensor) -> Tensor:
        """The most frequent phoneme of each letter, or PAD if it has no count, (N, S)."""
        return self._most_frequent_phonemes(lambda letters: letters)[source]

    def _most_frequent_phonemes(self, kind_of: Callable[[Tensor], Tensor]) -> Tensor:
        """The most frequent phoneme in training for each kind of letter, (kinds,).

        A kind without a count has PAD.

        Args:
            kind_of: maps letters (N, S) to their kinds; PAD to PAD.
        """
        letters, phonemes = self.train.lengths().T
        aligned = self.train.select((letters == phonemes - 2).nonzero().flatten())  # BOS, EOS
        counts = torch.zeros(self.letters**3, self.phonemes, dtype=torch.int32)
        places = kind_of(aligned.source), aligned.target[:, 1:-1]
        counts.index_put_(places, counts.new_tensor(1), accumulate=True)
        counts[PAD] = 0
        return counts.argmax(1)  # the smallest id wins a tie, so PAD without counts

    @cached_property
    def _trained_stems(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """The first pronunciation of each training word, and the most frequent of each ending."""
        known: dict[bytes, bytes] = {}
        for word, spoken in zip(_rows(self.train.source), _rows(self.train.target), strict=True):
            known.setdefault(word, spoken[1:-1])  # without BOS and EOS
        endings: defaultdict[bytes, Counter[bytes]] = defaultdict(Counter)
        for word, spoken in known.items():
            for cut in range(1, len(word)):
                stem = known.get(word[:cut])
                if stem is not None and spoken.startswith(stem):
                    endings[word[cut:]][spoken[len(stem) :]] += 1
        usual = {ending: min(seen, key=lambda p: (-seen[p], p)) for ending, seen in endings.items()}
        return known, usual


def _without_padding(rows: Tensor) -> list[list[int]]:
    return [[id for id in row if id != PAD] for row in rows.tolist()]


def _rows(ids: Tensor) -> Iterator[bytes]:
    """Each row (N, W) without padding, one byte per id."""
    return (row.tobytes().rstrip(bytes([PAD])) for row in ids.numpy().astype(np.uint8))
