"""Each line of a text as a separate document: one in each row, or several packed into a row."""

import numpy as np
import torch
from torch import Tensor

from attention_lab.data.core.batches import IGNORE, LabelledPositions, labelled_positions
from attention_lab.data.core.packing import Integers, RowLayout, pack, ranges
from attention_lab.data.core.vocabulary import PAD, TextVocabulary
from attention_lab.data.files.shared_passages import Ids

#: The number of ids in each read.
_BLOCK = 2**20


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
        rows = pack(lengths[:, None], length) if packing else np.arange(len(lengths))
        self._layout = RowLayout(starts, lengths, rows)

    def lengths(self) -> Tensor:
        """The lengths of the rows, (rows, 1) int64."""
        return self._layout.lengths().unsqueeze(1)

    def select(self, rows: Tensor) -> LabelledPositions:
        """The given rows as a batch; labels are the next tokens."""
        places, is_token, positions, lengths = self._layout.select(rows)

        def padded(places: Integers, padding: int) -> Tensor:
            ids = self._ids[places].astype(np.int64) + self._lowest
            return torch.from_numpy(np.where(is_token, ids, padding))

        inputs, labels = padded(places, PAD), padded(places + 1, IGNORE)
        return LabelledPositions(
            inputs,
            labels,
            torch.from_numpy(lengths),
            labelled_positions(labels),
            torch.from_numpy(positions) if self._packing else None,
        )


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
    offsets = length * ranges(np.zeros_like(parts), parts)
    return (
        np.repeat(starts, parts) + offsets,
        np.minimum(length, np.repeat(lengths, parts) - offsets),
    )
