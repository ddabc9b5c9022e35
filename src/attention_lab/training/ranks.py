"""The processes that train one run together: which of them this is, and what they agree on.

A run on one device is one process, the first; then nothing here waits for anybody.
"""

from typing import TypeVar

import torch
import torch.distributed as distributed

T = TypeVar("T")


def are_many() -> bool:
    """Whether this process trains a run together with others."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """The number of this process, from 0; the first one alone keeps the run's record."""
    return distributed.get_rank() if are_many() else 0


def world_size() -> int:
    """How many processes train the run."""
    return distributed.get_world_size() if are_many() else 1


def any_of_all(flag: bool) -> bool:
    """Whether a flag is up in any of the processes, which all have to ask."""
    if not are_many():
        return flag
    flags = torch.tensor(int(flag))
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags)


def of_all(value: T) -> list[T]:
    """What each of the processes, which all have to ask, has for a value, by rank."""
    if not are_many():
        return [value]
    values: list[T | None] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def of_first(value: T) -> T:
    """The first process's value, in each of them."""
    if not are_many():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]
