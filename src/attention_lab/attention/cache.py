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

    Growing tensors have spare capacity, which doubles when it is used up, so that a step does not
    copy the earlier positions. Steps that record gradients or are compiled do copy them.

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
        #: The tensors that have grown, with their spare capacity; ``tensors`` has views of them.
        self._buffers: dict[str, Tensor] = {}

    def extend(self, **new: Tensor) -> list[Tensor]:
        """Append tensors (…, n, width) to those of the same names; returns the results."""
        for name, tensor in new.items():
            past = self.tensors.get(name)
            if past is None:
                self.tensors[name] = tensor
            elif _must_copy(past, tensor):
                self.tensors[name] = torch.cat([past, tensor], dim=-2)
                self._buffers.pop(name, None)
            else:
                self.tensors[name] = self._append(name, past, tensor)
        return [self.tensors[name] for name in new]

    def _append(self, name: str, past: Tensor, new: Tensor) -> Tensor:
        before, total = past.shape[-2], past.shape[-2] + new.shape[-2]
        buffer = self._buffers.get(name)
        if buffer is None or _is_full(buffer, total):
            buffer = past.new_empty(*past.shape[:-2], 2 * total, past.shape[-1])
            buffer[..., :before, :] = past
            self._buffers[name] = buffer
        buffer[..., before:total, :] = new
        return buffer[..., :total, :]

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the whole content."""
        self.tensors, self._buffers = dict(tensors), {}

    def select(self, rows: Tensor) -> None:
        """Keep only some rows of the batch, (R,) int64; a row may be repeated."""
        self._buffers = {name: buffer[rows] for name, buffer in self._buffers.items()}
        for name, tensor in self.tensors.items():
            buffer = self._buffers.get(name)
            self.tensors[name] = (
                tensor[rows] if buffer is None else buffer[..., : tensor.shape[-2], :]
            )

    @property
    def size(self) -> int:
        """Size of the content in bytes, counted from the tensors, without their spare capacity."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def _must_copy(past: Tensor, new: Tensor) -> bool:
    """Whether appending must copy: for autograd, in a compiled graph, or to another dtype."""
    is_recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return is_recorded or past.dtype != new.dtype


def _is_full(buffer: Tensor, length: int) -> bool:
    """Whether a buffer is too short, or is from inference mode, so that it cannot be changed."""
    is_locked = buffer.is_inference() and not torch.is_inference_mode_enabled()
    return buffer.shape[-2] < length or is_locked


@contextmanager
def restored_on_failure(cache: Cache) -> Iterator[None]:
    """Restore the cache if the step fails."""
    # A failed step may have used spare capacity, which the next step then overwrites.
    before = cache.length, dict(cache.tensors)
    try:
        yield
    except BaseException:
        cache.length, cache.tensors = before
        raise
