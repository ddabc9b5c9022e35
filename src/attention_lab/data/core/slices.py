"""Slices: groups of examples, such as those of similar length, whose accuracy is reported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slices:
    """A partition of a split's examples into named slices."""

    names: list[str]
    #: Maps a batch to the index of each example's slice, (B,) int64.
    index_of: Callable[[Any], Tensor]


def by_length(
    shortest: int,
    longest: int,
    length_of: Callable[[Any], Tensor],
    at_most: int = 8,
    trained: tuple[int, int] | None = None,
    what: str = "length",
) -> Slices:
    """Slices by length: ranges of about equal width.

    Args:
        shortest: shortest length in the split.
        longest: longest length in the split.
        length_of: maps a batch to the lengths of its examples, (B,).
        at_most: greatest number of slices; at least 3 with ``trained``.
        trained: shortest and longest length in training; shorter and longer ones get other slices.
        what: the name of the length.

    Example:
        >>> by_length(1, 30, len, at_most=3, trained=(1, 25)).names
        ['length=1-13', 'length=14-25', 'length=26-30']
    """
    within = (shortest, longest) if trained is None else trained
    parts = [
        (max(shortest, first), min(longest, last))
        for first, last in ((1, within[0] - 1), within, (within[1] + 1, longest))
    ]
    each = next(
        each
        for each in range(1, longest - shortest + 2)
        if sum(-(-(last - first + 1) // each) for first, last in parts if first <= last) <= at_most
    )
    ends = [
        (begin, min(begin + each - 1, last))
        for first, last in parts
        for begin in range(first, last + 1, each)
    ]
    lasts = torch.tensor([last for _, last in ends])
    return Slices([_name(what, *each) for each in ends], _slice_of(lasts, length_of))


def by_quantile(
    known: Tensor,
    length_of: Callable[[Any], Tensor],
    at_most: int = 5,
    what: str = "length",
) -> Slices:
    """Slices by length: ranges with about the same number of examples.

    Args:
        known: the lengths (N,) ≥ 1 that define the slices, usually those of training. Longer
            lengths are in the last slice.
        length_of: maps a batch to the lengths of its examples, (B,).
        at_most: greatest number of slices.
        what: the name of the length.

    Example:
        >>> by_quantile(torch.tensor([5, 2, 3, 3, 4, 9]), len, at_most=3).names
        ['length=1-3', 'length=4', 'length=5+']
    """
    ordered = known.sort().values
    places = torch.arange(1, at_most) * len(known) // at_most - 1
    lasts = ordered[places.clamp(min=0)].unique()
    lasts = lasts[lasts < ordered[-1]]
    firsts = [1, *(lasts + 1).tolist()]
    names = [_name(what, *each) for each in zip(firsts, lasts.tolist(), strict=False)]
    return Slices([*names, f"{what}={firsts[-1]}+"], _slice_of(lasts, length_of))


def _name(what: str, first: int, last: int) -> str:
    return f"{what}={first}-{last}" if first < last else f"{what}={first}"


def _slice_of(lasts: Tensor, length_of: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """A function from a batch to slice indices, given the greatest length of each slice."""

    def slice_of(batch: Any) -> Tensor:
        lengths = length_of(batch)
        return torch.searchsorted(lasts.to(lengths.device), lengths.contiguous())

    return slice_of


def by_class(classes: Sequence[str]) -> Slices:
    """One slice for each class, by the names of the classes."""
    return Slices([f"class={name}" for name in classes], lambda batch: batch.labels)
