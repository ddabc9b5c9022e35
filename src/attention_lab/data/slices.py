"""Kinds of examples whose accuracy is told apart: short and long ones, easy and hard ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Slices:
    """A division of a split's examples."""

    names: list[str]
    #: The number of each example's slice, (B,) int64, of a batch.
    of: Callable[[Any], Tensor]


def by_length(
    shortest: int, longest: int, length_of: Callable[[Any], Tensor], at_most: int = 8
) -> Slices:
    """Slices of neighbouring lengths, as many to each but perhaps the last.

    Args:
        shortest: of the split.
        longest: of the split.
        length_of: the lengths (B,) of a batch's examples.
        at_most: how many slices.

    Example:
        >>> by_length(1, 30, len, at_most=3).names
        ['length=1-10', 'length=11-20', 'length=21-30']
    """
    each = -(-(longest - shortest + 1) // at_most)
    firsts = range(shortest, longest + 1, each)
    ends = [(first, min(first + each - 1, longest)) for first in firsts]
    names = [f"length={a}-{b}" if a < b else f"length={a}" for a, b in ends]
    return Slices(names, lambda batch: (length_of(batch) - shortest) // each)
