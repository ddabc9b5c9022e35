"""The types of batches. A whole split is stored as one batch, too."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attention_lab.data.core.vocabulary import PAD

#: The label of positions without a target: the ``ignore_index`` of torch's cross-entropy.
IGNORE = -100
#: Number of examples whose lengths are counted at once.
_CHUNK_SIZE = 1024


class Batch(Protocol):
    """The methods that every type of batch has."""

    def lengths(self) -> Tensor:
        """The lengths of each example's sequences, (B, sequences) int64, the input's first."""

    def select(self, rows: Tensor) -> Self:
        """The given rows, (R,) int64, as a batch."""


class SequencePairs(NamedTuple):
    """Source and target sequences of token ids."""

    source: Tensor  # (B, S) int64, padded with 0
    target: Tensor  # (B, T) int64, each row BOS … EOS, padded with 0
    index: Tensor  # type: ignore[assignment]  # (B,) int64, row in the split; shadows tuple.index

    def lengths(self) -> Tensor:
        """The lengths of sources and targets, (B, 2) int64."""
        return torch.stack([(ids != PAD).sum(1) for ids in (self.source, self.target)], 1)

    def select(self, rows: Tensor) -> "SequencePairs":
        """The given rows as a batch, trimmed to its longest source and target."""
        return SequencePairs(_trim(self.source[rows]), _trim(self.target[rows]), self.index[rows])

    @property
    def inputs(self) -> Tensor:
        """The inputs of the decoder in teacher forcing, (B, T − 1)."""
        return self.target[:, :-1]

    @property
    def labels(self) -> Tensor:
        """The labels of ``inputs``: the next tokens, (B, T − 1)."""
        return self.target[:, 1:]


class PackedPairs(NamedTuple):
    """Rows of several source–target pairs each, for training. Padding is at the ends of rows only.

    The k-th source of a row belongs to its k-th target.
    """

    source: Tensor  # (B, S) int64, padded with 0
    inputs: Tensor  # (B, T) int64, targets without their last token, padded with 0
    labels: Tensor  # (B, T) int64, targets without their first token, padded with 0
    source_positions: Tensor  # (B, S) int64, the position of each token in its source; 0 at padding
    target_positions: Tensor  # (B, T) int64, the same in the inputs


class LabelledSequences(NamedTuple):
    """Sequences with one class each. A sequence has feature vectors or token ids.

    Sequences of feature vectors all have the same length.
    """

    #: (B, S, F) float32, or (B, S) int64, padded with 0; a split may use a smaller integer type.
    inputs: Tensor
    labels: Tensor  # (B,) int64

    def lengths(self) -> Tensor:
        """The lengths of the inputs, (B, 1) int64."""
        if self.inputs.ndim == 2:
            parts = self.inputs.split(_CHUNK_SIZE)
            return torch.cat([(part != PAD).sum(1, keepdim=True) for part in parts])
        return torch.full((len(self.inputs), 1), self.inputs.shape[1], device=self.inputs.device)

    def select(self, rows: Tensor) -> "LabelledSequences":
        """The given rows as a batch, trimmed to its longest input."""
        inputs = self.inputs[rows]
        if inputs.ndim == 2:
            inputs = _trim(inputs).to(torch.int64)
        return LabelledSequences(inputs, self.labels[rows])


class LabelledPositions(NamedTuple):
    """Sequences of token ids; some positions have a label: the next token, or an answer."""

    inputs: Tensor  # (B, L) int64
    labels: Tensor  # (B, L) int64, IGNORE at positions without a target
    length: Tensor  # (B,) int64, number of positions without padding
    #: (N,) int64, the indices of the labelled positions in ``labels.flatten()``; None in a split.
    #: Computed on the CPU when the batch is made: on a GPU, the CPU would wait for the result.
    labelled: Tensor | None = None
    #: (B, L) int64, the position of each token in its document, if rows have several; 0 at padding.
    positions: Tensor | None = None

    def lengths(self) -> Tensor:
        """The lengths of the sequences, (B, 1) int64."""
        return self.length.unsqueeze(1)

    def select(self, rows: Tensor) -> "LabelledPositions":
        """The given rows as a batch, trimmed to the longest."""
        length = self.length[rows]
        width = int(length.amax())
        inputs, labels = self.inputs[rows, :width], self.labels[rows, :width]
        positions = None if self.positions is None else self.positions[rows, :width]
        return LabelledPositions(inputs, labels, length, labelled_positions(labels), positions)


def labelled_positions(labels: Tensor) -> Tensor:
    """The indices (N,) of the labelled positions in ``labels.flatten()``."""
    return (labels.flatten() != IGNORE).nonzero().squeeze(1)


BatchT = TypeVar("BatchT", bound=Batch)


class SplitDataset(Dataset[BatchT]):
    """A split as a Dataset: indexing it with a tensor of rows returns them as a batch."""

    def __init__(self, split: BatchT) -> None:
        self.split = split

    def __getitem__(self, rows: Tensor) -> BatchT:
        return self.split.select(rows)


def pad(sequences: Iterable[Sequence[int]]) -> Tensor:
    """Sequences of token ids as one tensor, (N, longest) int64, padded with PAD."""
    lengths: list[int] = []
    ids: list[int] = []
    for sequence in sequences:
        lengths.append(len(sequence))
        ids.extend(sequence)
    padded = np.full((len(lengths), max(lengths)), PAD)
    padded[np.arange(max(lengths)) < np.array(lengths)[:, None]] = ids
    return torch.from_numpy(padded)


def _trim(ids: Tensor) -> Tensor:
    return ids[:, : int((ids != PAD).any(0).sum())]
