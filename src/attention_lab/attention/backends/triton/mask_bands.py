"""Masks as a band of visible keys around each query, so that tiles outside it can be skipped."""

import math

from attention_lab.attention.masks import And, Causal, Mask, NoMask, SlidingWindow

#: More than any distance of two positions, and small enough to add to one in 32 bits.
UNBOUNDED = 1 << 30


def band(mask: Mask, start: int) -> tuple[int, int]:
    """The first and the last key that a query may attend to, counted from the query's index.

    Args:
        mask: of these queries.
        start: the position of the query with index 0; the key with index 0 is at position 0.
    """
    before, after = mask.reach
    low = -UNBOUNDED if math.isinf(before) else start - int(before)
    return low, UNBOUNDED if math.isinf(after) else start + int(after)


def beside_band(mask: Mask) -> Mask | None:
    """The mask that a key inside the band must pass, too; None if the band is the whole mask."""
    if type(mask) in (NoMask, Causal, SlidingWindow):
        return None
    if type(mask) is not And:
        return mask
    left, right = beside_band(mask.left), beside_band(mask.right)
    return right if left is None else left if right is None else left & right
