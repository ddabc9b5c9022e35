"""What step-by-step decoding remembers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Cache:
    """The past of one self-attention layer: what it kept of the positions it has seen.

    Give a new one with the first positions of a sequence and the same one with those that follow.
    The layer decides what to keep: keys and values, a latent, or a state that does not grow.
    """

    def __init__(self) -> None:
        #: Positions seen so far.
        self.length = 0
        self.tensors: dict[str, Tensor] = {}

    def extend(self, **new: Tensor) -> list[Tensor]:
        """Append tensors (…, n, width) to those of the same names; returns each as a whole."""
        for name, tensor in new.items():
            past = self.tensors.get(name)
            self.tensors[name] = tensor if past is None else torch.cat([past, tensor], dim=-2)
        return [self.tensors[name] for name in new]

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep these instead of what there was."""
        self.tensors = dict(tensors)

    @property
    def size(self) -> int:
        """Bytes kept, counted from the tensors themselves."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


@contextmanager
def restored_on_failure(cache: Cache | None) -> Iterator[None]:
    """A step that fails leaves the past as it was."""
    before = None if cache is None else (cache.length, dict(cache.tensors))
    try:
        yield
    except BaseException:
        if cache is not None and before is not None:
            cache.length, cache.tensors = before
        raise
