"""Hashes that are the same on every machine, in every release."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def stable_fraction(key: str) -> float:
    """A pseudorandom number in [0, 1) that depends on the key only."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64


def splitmix64(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The SplitMix64 hash of each number.

    Source: Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators", §5.1.
    """
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
