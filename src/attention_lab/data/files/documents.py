"""Each line of a text as a separate document: one in each row, or several packed into a row."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.data.core.batches import IGNORE, LabelledPositions, labelled_positions
from attention_lab.data.core.vocabulary import PAD, TextVocabulary
from attention_lab.data.files.shared_passages import Ids

#: The number of ids in each read.
_BLOCK = 2**20

Integers = NDArray[np.int64]


class DocumentRows:
    """A split whose lines are documents, read from disk when selected.

    A document's input is the end of the previous line and the line without its end; its labels are
    the line. A document longer than a row is cut into several.

    Args:
        ids: the text's token ids minus ``vocabulary.lowest``, (N,) with N > 1.
        vocabulary: the tokens.
        length: largest number of tokens in a row.
        packing: whether a row has as many documents as fit; if not, it has one.
    """

    def __init__(self, ids: Ids, vocabulary: TextVocabulary, length: int, packing: bool) -> None:
        self._ids, self._lowest, self._packing = ids, vocabulary.lowest, packing
        starts, lengths = _cut(_document_starts(ids, vocabulary), len(ids) - 1, length)
        rows = pack(lengths, length) if packing else np.arange(len(lengths))
        order = np.argsort(rows, kind="stable")
        self._starts, self._lengths = starts[order], lengths[order]
        #: The index of each row's first document, and the number of documents.
        self._first = np.concatenate([[0], np.cumsum(np.bincount(rows))])

    def lengths(self) -> Tensor:
        """The lengths of the rows, (rows, 1) int64."""
        return torch.from_numpy(np.add.reduceat(self._lengths, self._first[:-1])).unsqueeze(1)

    def select(self, rows: Tensor) -> LabelledPositions:
        """The given rows as a batch; labels are the next tokens."""
        first, end = self._first[rows.numpy()], self._first[rows.numpy() + 1]
        documents = _ranges(first, end - first)
        starts, lengths = self._starts[documents], self._lengths[documents]
        places = _ranges(starts, lengths)
        row_lengths = np.add.reduceat(lengths, np.cumsum(end - first) - (end - first))
        is_token = np.arange(row_lengths.max()) < row_lengths[:, None]

        def padded(values: Integers, padding: int) -> Tensor:
            table = np.full(is_token.shape, padding)
            table[is_token] = values
            return torch.from_numpy(table)

        inputs = padded(self._ids[places].astype(np.int64) + self._lowest, PAD)
        labels = padded(self._ids[places + 1].astype(np.int64) + self._lowest, IGNORE)
        positions = padded(places - np.repeat(starts, lengths), 0) if self._packing else None
        length = torch.from_numpy(row_lengths)
        return LabelledPositions(inputs, labels, length, labelled_positions(labels), positions)


def pack(lengths: Integers, capacity: int) -> Integers:
    """The row of each document, (D,), by best-fit decreasing: few rows, so little padding.

    The longest documents come first. Each goes into the fullest row that has room for it (Ding et
    al. 2024, "Fewer Truncations Improve Language Modeling", §3.2).

    Args:
        lengths: the number of tokens of each document, (D,), from 1 to ``capacity``.
        capacity: the number of tokens that fit into a row.
    """
    rows = np.empty(len(lengths), dtype=np.int64)
    #: The rows that have room for a number of tokens.
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    used = 0
    by_length = np.split(np.argsort(lengths, kind="stable"), np.cumsum(np.bincount(lengths)))
    for length in range(len(by_length) - 2, 0, -1):
        documents = by_length[length]
        while len(documents):
            rooms = range(length, capacity + 1)
            room = next((room for room in rooms if with_room[room]), capacity)
            if not with_room[room]:
                added = -(-len(documents) // (capacity // length))
                with_room[room].extend(range(used, used + added))
                used += added
            chosen = with_room[room][-len(documents) :]
            del with_room[room][-len(documents) :]
            rows[documents[: len(chosen)]] = chosen
            documents = documents[len(chosen) :]
            with_room[room - length].extend(chosen)
    return rows


def _document_starts(ids: Ids, vocabulary: TextVocabulary) -> Integers:
    """The places of the tokens with which documents start: the first, and the ends of lines."""
    is_end = np.zeros(len(vocabulary), dtype=np.bool_)
    for id in range(vocabulary.lowest, len(vocabulary)):
        is_end[id - vocabulary.lowest] = "\n" in vocabulary.decode([id])
    blocks = range(0, len(ids) - 1, _BLOCK)
    found = [
        start + np.flatnonzero(is_end[ids[start : min(start + _BLOCK, len(ids) - 1)]])
        for start in blocks
    ]
    return np.union1d([0], np.concatenate(found)).astype(np.int64)


def _cut(starts: Integers, end: int, length: int) -> tuple[Integers, Integers]:
    """Starts and lengths of documents, after those longer than ``length`` are cut."""
    lengths = np.diff(starts, append=end)
    parts = -(-lengths // length)
    offsets = length * _ranges(np.zeros_like(parts), parts)
    return (
        np.repeat(starts, parts) + offsets,
        np.minimum(length, np.repeat(lengths, parts) - offsets),
    )


def _ranges(starts: Integers, lengths: Integers) -> Integers:
    """``range(start, start + length)`` of each pair, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
