"""The cache of step-by-step decoding."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Cache:
    """The cache of one layer in step-by-step decoding.

    In self-attention, pass a new cache with the first positions of a sequence, and the same cache
    with the positions that follow. The layer decides what to keep: keys and values, a latent, or a
    state that does not grow. For attention to another sequence, ``layer.remember(memory)`` makes a
    cache of its keys and values.

    Args:
        tensors: the initial content, (B, …) each.
        is_memory: whether they are the keys and values of another sequence.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor] | None = None, is_memory: bool = False
    ) -> None:
        #: Positions seen so far.
        self.length = 0
        self.tensors: dict[str, Tensor] = dict(tensors or {})
        self.is_memory = is_memory

    def extend(self, **new: Tensor) -> list[Tensor]:
        """Append tensors (…, n, width) to those of the same names; returns the results."""
        for name, tensor in new.items():
            past = self.tensors.get(name)
            self.tensors[name] = tensor if past is None else torch.cat([past, tensor], dim=-2)
        return [self.tensors[name] for name in new]

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the whole content."""
        self.tensors = dict(tensors)

    def select(self, rows: Tensor) -> None:
        """Keep only some rows of the batch, (R,) int64; a row may be repeated."""
        self.tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}

    @property
    def size(self) -> int:
        """Size in bytes, counted from the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


@contextmanager
def restored_on_failure(cache: Cache | None) -> Iterator[None]:
    """Restore the cache if the step fails."""
    before = None if cache is None else (cache.length, dict(cache.tensors))
    try:
        yield
    except BaseException:
        if cache is not None and before is not None:
            cache.length, cache.tensors = before
        raise
