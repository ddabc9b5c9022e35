"""Kinds of examples whose accuracy is told apart: short and long ones, easy and hard ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slices:
    """A division of a split's examples."""

    names: list[str]
    #: The number of each example's slice, (B,) int64, of a batch.
    of: Callable[[Any], Tensor]


def by_length(
    shortest: int,
    longest: int,
    length_of: Callable[[Any], Tensor],
    at_most: int = 8,
    trained: tuple[int, int] | None = None,
    what: str = "length",
) -> Slices:
    """Slices of neighbouring lengths, as many to each but perhaps the last.

    Args:
        shortest: of the split.
        longest: of the split.
        length_of: the lengths (B,) of a batch's examples.
        at_most: how many slices; at least 3 with ``trained``.
        trained: the shortest and longest trained on, if others must not share a slice with them.
        what: the name of such a length.

    Example:
        >>> by_length(1, 30, len, at_most=3).names
        ['length=1-10', 'length=11-20', 'length=21-30']
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
    names = [f"{what}={a}-{b}" if a < b else f"{what}={a}" for a, b in ends]
    lasts = torch.tensor([last for _, last in ends])

    def slice_of(batch: Any) -> Tensor:
        lengths = length_of(batch)
        return torch.searchsorted(lasts.to(lengths.device), lengths.contiguous())

    return Slices(names, slice_of)


def by_share(
    known: Tensor,
    length_of: Callable[[Any], Tensor],
    at_most: int = 5,
    what: str = "length",
) -> Slices:
    """Slices of neighbouring lengths, about as many examples to each.

    Args:
        known: the lengths (N,), from 1 up, that are shared out, such as those of training. Longer
            ones go to the last slice.
        length_of: the lengths (B,) of a batch's examples.
        at_most: how many slices.
        what: the name of such a length.

    Example:
        >>> by_share(torch.tensor([5, 2, 3, 3, 4, 9]), len, at_most=3).names
        ['length=1-3', 'length=4', 'length=5+']
    """
    ordered = known.sort().values
    places = torch.arange(1, at_most) * len(known) // at_most - 1
    lasts = ordered[places.clamp(min=0)].unique()
    lasts = lasts[lasts < ordered[-1]]
    firsts = [1, *(lasts + 1).tolist()]
    names = [
        f"{what}={first}-{last}" if first < last else f"{what}={first}"
        for first, last in zip(firsts, lasts.tolist(), strict=False)
    ]

    def slice_of(batch: Any) -> Tensor:
        lengths = length_of(batch)
        return torch.searchsorted(lasts.to(lengths.device), lengths.contiguous())

    return Slices([*names, f"{what}={firsts[-1]}+"], slice_of)


def by_class(classes: Sequence[str]) -> Slices:
    """A slice of each class of labelled sequences, which have these names."""
    return Slices([f"class={name}" for name in classes], lambda batch: batch.labels)
