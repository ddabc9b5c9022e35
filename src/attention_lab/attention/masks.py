"""Masks: predicates (batch, head, query, key) → bool, composed with ``&`` and ``|``.

A mask says which key positions a query position *may* look at (True = may look), the
convention of ``torch.nn.functional.scaled_dot_product_attention``. Each backend lowers a mask to
what it needs; :meth:`Mask.dense` is the lowering every backend can fall back on.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Mask(ABC):
    """A predicate over index tensors; pure, so that backends may evaluate it anywhere."""

    @abstractmethod
    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether each query position may look at each key position.

        Args:
            batch, head, query, key: int64 indices of mutually broadcastable shapes. ``query`` and
                ``key`` are positions in their sequences.

        Returns:
            A bool tensor, broadcastable to the arguments' common shape.
        """

    def __and__(self, other: "Mask") -> "Mask":
        if not isinstance(other, Mask):
            return NotImplemented
        return self if other == self else Both(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        if not isinstance(other, Mask):
            return NotImplemented
        return self if other == self else Either(self, other)

    def dense(
        self, batch: int, heads: int, queries: int, keys: int, device: torch.device
    ) -> Tensor:
        """The mask as a bool tensor that broadcasts to (batch, heads, queries, keys).

        Dimensions that the predicate does not look at stay of size 1.
        """

        def axis(size: int, dim: int) -> Tensor:
            shape = [1, 1, 1, 1]
            shape[dim] = size
            return torch.arange(size, device=device).view(shape)

        return self(axis(batch, 0), axis(heads, 1), axis(queries, 2), axis(keys, 3))


@dataclass(frozen=True)
class Both(Mask):
    """May look where both masks allow it."""

    left: Mask
    right: Mask

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.left(batch, head, query, key) & self.right(batch, head, query, key)


@dataclass(frozen=True)
class Either(Mask):
    """May look where at least one of the masks allows it."""

    left: Mask
    right: Mask

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.left(batch, head, query, key) | self.right(batch, head, query, key)


@dataclass(frozen=True)
class Causal(Mask):
    """No look ahead: key position ≤ query position (Vaswani et al. 2017, §3.2.3).

    Positions count from the start of both sequences, so lengths may differ.
    """

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Only real keys: ``valid`` (B, S) bool is True where the key is not padding."""

    valid: Tensor

    def __post_init__(self) -> None:
        if self.valid.dtype != torch.bool or self.valid.ndim != 2:
            raise ValueError(
                "a padding mask is a bool tensor (batch, keys), True for real keys; got "
                f"{self.valid.dtype} of shape {tuple(self.valid.shape)}"
            )

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.valid[batch, key]
