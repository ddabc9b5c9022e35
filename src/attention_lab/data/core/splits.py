"""The names of the splits, and how examples are assigned to them by a hash."""

from bisect import bisect_left
from collections.abc import Iterable

from attention_lab.data.core.hashing import stable_fraction

SPLITS = ("train", "validation", "test")


def check_split(name: str) -> str:
    """Return the name of a split; raise ValueError if there is no such split."""
    if name not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
    return name


def split_by_hash(keys: Iterable[str], train: float, validation: float) -> dict[str, list[str]]:
    """Assign keys to train, validation and test by their hashes.

    The split of a key depends on the key only. Each split is sorted by hash, so its first n keys
    are a random sample of it.

    Args:
        keys: the keys to assign, such as words.
        train: the share of the training split.
        validation: the share of the validation split; the rest is test.
    """
    fractions = {key: stable_fraction(key) for key in keys}
    order = sorted(fractions, key=fractions.__getitem__)
    first = bisect_left(order, train, key=fractions.__getitem__)
    last = bisect_left(order, train + validation, key=fractions.__getitem__)
    return {"train": order[:first], "validation": order[first:last], "test": order[last:]}


def split_shares(given: Iterable[str]) -> dict[str, float]:
    """The shares of the training file for training and for each split without its own file.

    >>> split_shares(["test"])
    {'train': 0.95, 'validation': 0.05}
    """
    own = set(given)
    held_out = dict.fromkeys((split for split in SPLITS[1:] if split not in own), 0.05)
    return {"train": round(1 - sum(held_out.values()), 2), **held_out}
