"""Masks: predicates (batch, head, query, key) → bool, composed with ``&`` and ``|``.

A mask says which key positions a query position *may* attend to (True = may attend), the
convention of ``torch.nn.functional.scaled_dot_product_attention``. Each backend converts a
mask to the form that it needs; all of them can use :meth:`Mask.dense`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_lab.argument_checks import check_positive


class Mask(ABC):
    """A predicate over index tensors, which must not depend on anything but its arguments."""

    @abstractmethod
    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether each query position may attend to each key position.

        Args:
            batch, head, query, key: int64 indices of mutually broadcastable shapes. ``query`` and
                ``key`` are positions in their sequences.

        Returns:
            A bool tensor, broadcastable to the arguments' common shape.
        """

    @property
    def depends_on_query(self) -> bool:
        """Whether visible keys differ between queries; padding hides a key from all queries."""
        return True

    @property
    def reach(self) -> tuple[float, float]:
        """How many positions before and after its own a query may attend to, at most.

        If both are finite, attention is computed in blocks of near keys.
        """
        return math.inf, math.inf

    @property
    def is_causal(self) -> bool:
        """Whether no query may attend to a key after its own position."""
        return self.reach[1] == 0

    def check(self, batch: int, heads: int, queries: int, keys: int) -> None:  # noqa: B027  # most masks fit any size
        """Raise ValueError if the mask does not fit these sizes."""

    def __and__(self, other: "Mask") -> "Mask":
        if not isinstance(other, Mask):
            return NotImplemented
        if isinstance(other, NoMask) or other == self:
            return self
        return And(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        if not isinstance(other, Mask):
            return NotImplemented
        return self if other == self else Or(self, other)

    def dense(
        self,
        batch: int,
        heads: int,
        queries: int,
        keys: int,
        device: torch.device,
        start: int = 0,
    ) -> Tensor:
        """The mask as a bool tensor that broadcasts to (batch, heads, queries, keys).

        Dimensions on which the predicate does not depend have size 1. The first query is at
        position ``start``, the first key at 0.
        """

        def axis(size: int, dim: int, first: int = 0) -> Tensor:
            shape = [1, 1, 1, 1]
            shape[dim] = size
            return torch.arange(first, first + size, device=device).view(shape)

        return self(axis(batch, 0), axis(heads, 1), axis(queries, 2, start), axis(keys, 3))


@dataclass(frozen=True)
class NoMask(Mask):
    """Every query may attend to every key: no mask."""

    @property
    def depends_on_query(self) -> bool:
        return False

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.ones_like(key, dtype=torch.bool)

    def __and__(self, other: Mask) -> Mask:
        return other if isinstance(other, Mask) else NotImplemented


@dataclass(frozen=True)
class Pair(Mask):
    """Base class of masks that combine two others."""

    left: Mask
    right: Mask

    @property
    def depends_on_query(self) -> bool:
        return self.left.depends_on_query or self.right.depends_on_query

    def check(self, batch: int, heads: int, queries: int, keys: int) -> None:
        self.left.check(batch, heads, queries, keys)
        self.right.check(batch, heads, queries, keys)


@dataclass(frozen=True)
class And(Pair):
    """Visible where both masks allow it."""

    @property
    def reach(self) -> tuple[float, float]:
        (before, after), (its_before, its_after) = self.left.reach, self.right.reach
        return min(before, its_before), min(after, its_after)

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.left(batch, head, query, key) & self.right(batch, head, query, key)


@dataclass(frozen=True)
class Or(Pair):
    """Visible where at least one of the two masks allows it."""

    @property
    def reach(self) -> tuple[float, float]:
        (before, after), (its_before, its_after) = self.left.reach, self.right.reach
        return max(before, its_before), max(after, its_after)

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.left(batch, head, query, key) | self.right(batch, head, query, key)


@dataclass(frozen=True)
class Causal(Mask):
    """Hides later keys: key position ≤ query position (Vaswani et al. 2017, §3.2.3).

    Positions count from the start of both sequences, so lengths may differ.
    """

    @property
    def reach(self) -> tuple[float, float]:
        return math.inf, 0

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Hides padding: ``valid`` (B, S) bool is True for real keys."""

    valid: Tensor

    def __post_init__(self) -> None:
        if self.valid.dtype != torch.bool or self.valid.ndim != 2:
            raise ValueError(
                "a padding mask is a bool tensor (batch, keys), True for real keys; got "
                f"{self.valid.dtype} of shape {tuple(self.valid.shape)}"
            )

    @property
    def depends_on_query(self) -> bool:
        return False

    def check(self, batch: int, heads: int, queries: int, keys: int) -> None:
        if self.valid.shape != (batch, keys):
            raise ValueError(
                f"a padding mask for {batch} sequences of {keys} keys has the shape "
                f"({batch}, {keys}); got {tuple(self.valid.shape)}"
            )

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.valid[batch, key]

    def __repr__(self) -> str:
        return f"Padding({tuple(self.valid.shape)})"


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """A mask given as a bool tensor: ``visible`` (B or 1, H or 1, L, S), True = may attend.

    Raises:
        ValueError: if it is not a bool tensor of four dimensions. (A float mask would be added to
            logits, and not every mechanism has logits.)
    """

    visible: Tensor

    def __post_init__(self) -> None:
        if self.visible.dtype != torch.bool or self.visible.ndim != 4:
            raise ValueError(
                "a mask is a bool tensor (batch, heads, queries, keys), True where a query may "
                f"attend; got {self.visible.dtype} of shape {tuple(self.visible.shape)}"
            )

    def check(self, batch: int, heads: int, queries: int, keys: int) -> None:
        batches, its_heads, rows, columns = self.visible.shape
        fits = batches in (1, batch) and its_heads in (1, heads)
        if not fits or rows != queries or columns != keys:
            raise ValueError(
                f"a mask for {batch} sequences, {heads} heads, {queries} queries and {keys} keys; "
                f"got one of shape {tuple(self.visible.shape)}"
            )

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        batches, heads, _, _ = self.visible.shape
        batch, head = batch * (batches > 1), head * (heads > 1)
        return self.visible[batch, head, query, key]

    def dense(
        self,
        batch: int,
        heads: int,
        queries: int,
        keys: int,
        device: torch.device,
        start: int = 0,
    ) -> Tensor:
        return self.visible[:, :, start : start + queries, :keys]

    def __repr__(self) -> str:
        return f"Dense({tuple(self.visible.shape)})"


@dataclass(frozen=True)
class SlidingWindow(Mask):
    """The last ``window`` keys, the query's own included (Beltagy et al. 2020, §3.1).

    Args:
        window: visible keys per query.
        centred: half of the window before the query, half after; ``window`` must be odd.
    """

    window: int = 32
    centred: bool = False

    def __post_init__(self) -> None:
        check_positive(window=self.window)
        if self.centred and self.window % 2 == 0:
            raise ValueError(f"a centred window has an odd number of keys, got {self.window}")

    @property
    def reach(self) -> tuple[float, float]:
        after = self.window // 2 if self.centred else 0
        return self.window - 1 - after, after

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        newest = query + self.window // 2 if self.centred else query
        return (key <= newest) & (key > newest - self.window)


@dataclass(frozen=True)
class Dilated(Mask):
    """Every ``dilation``-th key back from the query's own, ``window`` of them (ibid., §3.1)."""

    window: int = 16
    dilation: int = 2

    def __post_init__(self) -> None:
        check_positive(window=self.window, dilation=self.dilation)

    @property
    def reach(self) -> tuple[float, float]:
        return (self.window - 1) * self.dilation, 0

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        back = query - key
        return (back >= 0) & (back < self.window * self.dilation) & (back % self.dilation == 0)


@dataclass(frozen=True)
class PrefixLM(Mask):
    """The first ``prefix_length`` keys, and those up to the query (Raffel et al. 2020, §3.2.1)."""

    prefix_length: int = 8

    def __post_init__(self) -> None:
        check_positive(prefix_length=self.prefix_length)

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key < self.prefix_length) | (key <= query)


@dataclass(frozen=True)
class BlockSparse(Mask):
    """The keys of the query's own block, and the last ``summary`` keys of every block.

    The "fixed" pattern of Child et al. 2019, §4.3 (causal there: compose with ``Causal``).
    """

    block_size: int = 8
    summary: int = 1

    def __post_init__(self) -> None:
        check_positive(block_size=self.block_size, summary=self.summary)
        if self.summary > self.block_size:
            raise ValueError(f"summary={self.summary} exceeds block_size={self.block_size}")

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query // self.block_size == key // self.block_size) | (
            key % self.block_size >= self.block_size - self.summary
        )


@dataclass(frozen=True)
class GlobalTokens(Mask):
    """The first ``count`` positions attend to all, and all attend to them (Beltagy et al. 2020).

    All other pairs are hidden, so combine it, as in ``SlidingWindow() | GlobalTokens()``.
    """

    count: int = 1

    def __post_init__(self) -> None:
        check_positive(count=self.count)

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query < self.count) | (key < self.count)


@dataclass(frozen=True, eq=False)
class Documents(Mask):
    """Only keys of the query's own document, where several are packed into one sequence.

    Args:
        ids: the document of each key, (B, S) int.
        query_ids: the document of each query, (B, L) int, in cross-attention; None means ``ids``.
    """

    ids: Tensor
    query_ids: Tensor | None = None

    def __post_init__(self) -> None:
        for ids in (self.ids, self._of_queries):
            if ids.is_floating_point() or ids.ndim != 2:
                raise ValueError(
                    "document ids are whole numbers (batch, positions); got "
                    f"{ids.dtype} of shape {tuple(ids.shape)}"
                )

    @property
    def _of_queries(self) -> Tensor:
        return self.ids if self.query_ids is None else self.query_ids

    def check(self, batch: int, heads: int, queries: int, keys: int) -> None:
        of_queries = self._of_queries.shape
        if self.ids.shape != (batch, keys) or of_queries[0] != batch or queries > of_queries[1]:
            raise ValueError(
                f"document ids for {batch} sequences of {keys} positions have the shape "
                f"({batch}, {keys}); got {tuple(self.ids.shape)}, and {tuple(of_queries)} for "
                f"{queries} queries"
            )

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self._of_queries[batch, query] == self.ids[batch, key]

    def __repr__(self) -> str:
        return f"Documents({tuple(self.ids.shape)})"


def render(mask: Mask, queries: int, keys: int) -> str:
    """A mask as text, for one sequence and head: a row for each query, ■ for visible keys.

    Example:
        >>> print(render(SlidingWindow(2), 3, 3))
        ■ · ·
        ■ ■ ·
        · ■ ■
    """
    visible = mask.dense(1, 1, queries, keys, torch.device("cpu")).expand(1, 1, queries, keys)
    return "\n".join(
        " ".join("■" if seen else "·" for seen in row) for row in visible[0, 0].tolist()
    )


def split_causal(mask: Mask | None) -> tuple[bool, Mask] | None:
    """A mask as (whether it is causal, what else hides keys from all queries alike).

    Mechanisms of linear time can compute such masks. Returns None for all other masks.
    """
    if mask is None:
        return False, NoMask()
    if isinstance(mask, Causal):
        return True, NoMask()
    if not mask.depends_on_query:
        return False, mask
    if isinstance(mask, And):
        left, right = split_causal(mask.left), split_causal(mask.right)
        if left is not None and right is not None:
            return left[0] or right[0], left[1] & right[1]
    return None
