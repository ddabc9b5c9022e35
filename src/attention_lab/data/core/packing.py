"""Packing: several short sequences, or documents, in one row without padding between them."""

import math
import operator
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.data.core.batches import PackedPairs, SequencePairs
from attention_lab.data.core.vocabulary import PAD
from attention_lab.memory import check_fits

Integers = NDArray[np.int64]
#: The number of further tokens of each sequence that a row has room for.
Room = tuple[int, ...]

_NO_ROW = np.iinfo(np.int32).max
#: How far above a length rooms are searched first, and then.
_NEAR = (32, 128)


def pack(lengths: Integers, capacity: int) -> Integers:
    """The row of each document, (D,), by best-fit decreasing: few rows, so little padding.

    The longest documents come first. Each goes into the fullest row that has room for it (Ding et
    al. 2024, "Fewer Truncations Improve Language Modeling", §3.2).

    Args:
        lengths: the number of tokens of each document's K sequences, (D, K), from 1 to
            ``capacity``: one sequence for a text, two for a pair.
        capacity: the number of tokens of each of the K sequences that fit into a row.

    Raises:
        TooLarge: if there is too little memory for so large a capacity.
    """
    shape = (capacity + 1,) * lengths.shape[1]
    check_fits(f"packing into rows of {capacity:,} tokens needs", 4 * math.prod(shape))
    kinds, kind_of = np.unique(np.ravel_multi_index(lengths.T, shape), return_inverse=True)
    documents_of = np.split(np.argsort(kind_of, kind="stable"), np.cumsum(np.bincount(kind_of)))
    lengths = np.stack(np.unravel_index(kinds, shape), axis=1)
    rows = np.empty(len(kind_of), dtype=np.int64)
    #: The rows that have room for (a, b, …) tokens; and a + b + … where there are such rows.
    with_room: dict[Room, list[int]] = {}
    total_room = np.full(shape, _NO_ROW, dtype=np.int32)
    used = 0
    for kind in np.lexsort((lengths.min(1), lengths.max(1)))[::-1]:
        length, documents = tuple(lengths[kind].tolist()), documents_of[kind]
        while len(documents):
            room = _room_of_fullest(total_room, with_room, length)
            if room is None:
                room = (capacity,) * len(length)
                added = -(-len(documents) // (capacity // max(length)))
                with_room[room] = list(range(used, used + added))
                used += added
            chosen = with_room[room][-len(documents) :]
            del with_room[room][-len(documents) :]
            if not with_room[room]:
                del with_room[room]
                total_room[room] = _NO_ROW
            rows[documents[: len(chosen)]] = chosen
            documents = documents[len(chosen) :]
            left = tuple(more - least for more, least in zip(room, length, strict=True))
            with_room.setdefault(left, []).extend(chosen)
            total_room[left] = sum(left)
    return rows


def _room_of_fullest(
    total_room: NDArray[np.int32], rooms: Iterable[Room], length: Room
) -> Room | None:
    """The room of a row with little room, but enough for ``length``; None if no row has enough.

    With one sequence it is the fullest such row. With several, the rooms near ``length`` are
    searched first: a search of all would take long for each document.
    """
    for width in _NEAR:
        near = total_room[tuple(slice(least, least + width) for least in length)]
        place = np.unravel_index(near.argmin(), near.shape)
        if near[place] != _NO_ROW:
            return tuple(int(more) + least for more, least in zip(place, length, strict=True))
    enough = [room for room in rooms if all(map(operator.ge, room, length))]
    return min(enough, key=sum, default=None)


class RowTokens(NamedTuple):
    """Where the tokens of some rows are."""

    places: Integers  # (B, L), in the array that has the tokens of all documents; 0 at padding
    is_token: NDArray[np.bool_]  # (B, L), False at padding
    positions: Integers  # (B, L), in the token's document; 0 at padding
    lengths: Integers  # (B,), the number of tokens of each row


class RowLayout:
    """The documents of each row, which are parts of one array of tokens.

    Args:
        starts: the place of each document's first token in the array, (D,).
        lengths: the number of tokens of each document, (D,), at least 1.
        rows: the row of each document, (D,).
    """

    def __init__(self, starts: Integers, lengths: Integers, rows: Integers) -> None:
        order = np.argsort(rows, kind="stable")
        self._starts, self._lengths = starts[order], lengths[order]
        #: The index of each row's first document, and the number of documents.
        self._first = np.concatenate([[0], np.cumsum(np.bincount(rows))])

    def lengths(self) -> Tensor:
        """The lengths of the rows, (rows,) int64."""
        return torch.from_numpy(np.add.reduceat(self._lengths, self._first[:-1]))

    def select(self, rows: Tensor) -> RowTokens:
        """The tokens of the given rows, as many columns as the longest has."""
        first, end = self._first[rows.numpy()], self._first[rows.numpy() + 1]
        documents = ranges(first, end - first)
        starts, lengths = self._starts[documents], self._lengths[documents]
        row_lengths = np.add.reduceat(lengths, np.cumsum(end - first) - (end - first))
        is_token = np.arange(row_lengths.max()) < row_lengths[:, None]
        places, positions = (np.zeros(is_token.shape, dtype=np.int64) for _ in range(2))
        places[is_token] = ranges(starts, lengths)
        positions[is_token] = ranges(np.zeros_like(lengths), lengths)
        return RowTokens(places, is_token, positions, row_lengths)


class PackedPairRows:
    """Rows of several source–target pairs each, with the interface of a batch.

    Args:
        pairs: the pairs.
        capacity: the largest number of source tokens, and of target tokens, in a row.

    Raises:
        ValueError: if a source or target is empty, so that no position would start its document.
    """

    def __init__(self, pairs: SequencePairs, capacity: int) -> None:
        lengths = pairs.lengths().numpy()
        # A target's last token is no input, and its first no label.
        counts = lengths - [0, 1]
        if counts.min() < 1:
            raise ValueError(
                "data.packing=true: a training pair has no source or no target tokens; use "
                "data.packing=false"
            )
        rows = pack(counts, capacity)
        starts = np.cumsum(lengths, axis=0) - lengths
        self._source, self._target = (
            RowLayout(starts[:, side], counts[:, side], rows) for side in (0, 1)
        )
        sequences = pairs.source.numpy(), pairs.target.numpy()
        self._source_ids, self._target_ids = (ids[ids != PAD] for ids in sequences)

    def lengths(self) -> Tensor:
        """The numbers of source tokens and of target tokens of the rows, (rows, 2) int64.

        As in :class:`SequencePairs`, the second is one more than the number of labels.
        """
        return torch.stack([self._source.lengths(), self._target.lengths() + 1], dim=1)

    def select(self, rows: Tensor) -> PackedPairs:
        """The given rows as a batch."""
        source, target = self._source.select(rows), self._target.select(rows)
        padded = (
            np.where(source.is_token, self._source_ids[source.places], PAD),
            np.where(target.is_token, self._target_ids[target.places], PAD),
            np.where(target.is_token, self._target_ids[target.places + 1], PAD),
        )
        return PackedPairs(*map(torch.from_numpy, (*padded, source.positions, target.positions)))


def ranges(starts: Integers, lengths: Integers) -> Integers:
    """``range(start, start + length)`` of each pair, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
