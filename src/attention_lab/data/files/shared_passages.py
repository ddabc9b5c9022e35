"""Long passages that occur in two texts, found by rolling hashes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_lab.data.core.hashing import splitmix64

#: Tokens in a passage. Passages of this length rarely repeat by chance in natural text.
PASSAGE_LENGTH = 50
#: The most passages of a text that are compared; they are evenly spaced.
_MAX_PASSAGES = 2**13
_CHUNK_SIZE = 2**13
#: The number of leading bits of a hash that are compared first, to reject most passages quickly.
_BITS = 19
#: Any odd number: it has an inverse modulo 2^64.
_BASE = 0x9E3779B97F4A7C15

Ids = NDArray[np.unsignedinteger[Any]]
Hashes = NDArray[np.uint64]


class Shared(NamedTuple):
    """Number of passages of a text that occur in another text, and that were compared with it."""

    found: int
    passages: int


def shared_passages(text: Ids, others: Sequence[Ids]) -> list[Shared]:
    """Count the passages of other texts that occur in a text, at any position.

    All passages of the text are compared with at most 8,192 passages of each other text. Their
    rolling hashes of 64 bits are compared (Karp & Rabin 1987, "Efficient randomized
    pattern-matching algorithms"), so no text is loaded into memory as a whole.

    Args:
        text: the text's token ids, (N,).
        others: the other texts' token ids, in the same vocabulary.
    """
    passages = [_Passages(other) for other in others]
    for hashes in _rolling_hashes(text):
        for each in passages:
            each.find_in(hashes)
    return [each.result() for each in passages]


class _Passages:
    """The hashes of a text's passages, and which of them occur in another text."""

    def __init__(self, text: Ids) -> None:
        step = max(1, -(-(len(text) - PASSAGE_LENGTH + 1) // _MAX_PASSAGES))
        parts = [np.zeros(0, dtype=np.uint64)]
        begin = 0
        for hashes in _rolling_hashes(text):
            parts.append(
                hashes[-begin % step :: step].copy()
            )  # a view would keep all hashes in memory
            begin += len(hashes)
        self._hashes, self._counts = np.unique(np.concatenate(parts), return_counts=True)
        self._found = np.zeros(len(self._hashes), dtype=bool)
        self._likely = np.zeros(2**_BITS, dtype=bool)
        self._likely[_leading_bits(self._hashes)] = True

    def find_in(self, hashes: Hashes) -> None:
        likely = hashes[self._likely[_leading_bits(hashes)]]
        places = np.searchsorted(self._hashes, likely).clip(max=len(self._hashes) - 1)
        self._found[places[self._hashes[places] == likely]] = True

    def result(self) -> Shared:
        return Shared(int(self._counts[self._found].sum()), int(self._counts.sum()))


def _rolling_hashes(text: Ids) -> Iterator[Hashes]:
    """The hash of the passage that begins at each position, in blocks."""
    powers = _powers(_BASE)
    inverses = _powers(pow(_BASE, -1, 2**64))
    for start in range(0, len(text) - PASSAGE_LENGTH + 1, _CHUNK_SIZE):
        block = text[start : start + _CHUNK_SIZE + PASSAGE_LENGTH - 1].astype(np.uint64)
        # A passage's hash is a difference of prefix sums of id · base^position, / base^start.
        sums = np.zeros(len(block) + 1, dtype=np.uint64)
        np.cumsum(splitmix64(block) * powers[: len(block)], out=sums[1:])
        differences = sums[PASSAGE_LENGTH:] - sums[:-PASSAGE_LENGTH]
        yield differences * inverses[: len(differences)]


def _powers(base: int) -> Hashes:
    """1, base, base² … modulo 2^64."""
    factors = np.full(_CHUNK_SIZE + PASSAGE_LENGTH - 1, base, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _leading_bits(hashes: Hashes) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _BITS)).view(np.int64)  # numpy indexes need a signed type
