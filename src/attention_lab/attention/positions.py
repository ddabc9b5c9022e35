"""Positional encodings inside attention: they change queries and keys, or add to the logits.

The first key is at position 0 and the first query at ``start``, so that step-by-step decoding
gives the same result as one pass over all positions.
"""

import math
from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_positive
from attention_lab.attention.precision import wide, without_autocast


class Positions(nn.Module, ABC):
    """Base class of positional encodings of queries and keys.

    Args:
        num_heads: number of query heads, H.
        head_dim: width of one head's queries and keys, E.

    Raises:
        ValueError: if either is below 1.
    """

    formula: ClassVar[str]
    paper: ClassVar[str]
    #: Whether the bias may need a gradient.
    bias_needs_grad: ClassVar[bool] = True
    #: Whether the bias depends on the query and the distance of the key only, not on positions.
    bias_is_relative: ClassVar[bool] = False

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        check_positive(num_heads=num_heads, head_dim=head_dim)
        self.num_heads, self.head_dim = num_heads, head_dim

    @property
    def changes_inputs(self) -> bool:
        """Whether the class overrides :meth:`place`."""
        return type(self).place is not Positions.place

    @property
    def adds_to_logits(self) -> bool:
        """Whether the class overrides :meth:`bias`."""
        return type(self).bias is not Positions.bias

    def check_lengths(self, queries: int, keys: int) -> None:  # most have no limit
        """Raise ValueError if there are no positions for so many queries or keys."""

    def place(self, query: Tensor, key: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Queries (B, H, L, E) and keys (B, H_kv, S, E) with their positions encoded."""
        return query, key

    def bias(self, query: Tensor, start: int, keys: int) -> Tensor | None:
        """A bias of the logits, broadcastable to (B, H, L, S), or None.

        The query is the one that :meth:`place` returns.
        """
        return None


class NoPositions(Positions):
    """No positional encoding (Kazemnejad et al. 2023: with a causal mask it can learn to count)."""

    formula = ""
    paper = "Kazemnejad et al. 2023"


class Sinusoidal(Positions):
    """Sines and cosines added to each head's queries and keys (Vaswani et al. 2017, §3.5).

    Added at every layer rather than once to the embeddings, and not to the values (as in Carion et
    al. 2020, fig. 10).
    """

    formula = "q + sin(i·ω), k + sin(j·ω)"
    paper = "Vaswani et al. 2017"

    def place(self, query: Tensor, key: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return query + self._table(query, start), key + self._table(key, 0)

    def _table(self, x: Tensor, start: int) -> Tensor:
        angles = _angles(x, start, self.head_dim)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return table[:, : self.head_dim].to(x.dtype)


class Learned(Positions):
    """A learned vector for each position, added to queries and keys (Gehring et al. 2017, §3.1).

    Args:
        num_heads: number of query heads.
        head_dim: width of one head.
        max_length: number of learned positions.

    Raises:
        ValueError: if a size is below 1, or (when called) if a sequence is longer.
    """

    formula = "q + p_i, k + p_j"
    paper = "Gehring et al. 2017"

    def __init__(self, num_heads: int, head_dim: int, max_length: int = 512) -> None:
        super().__init__(num_heads, head_dim)
        check_positive(max_length=max_length)
        self.table = nn.Parameter(torch.randn(max_length, head_dim) * head_dim**-0.5)

    def check_lengths(self, queries: int, keys: int) -> None:
        longest = max(queries, keys)
        if longest > len(self.table):
            raise ValueError(
                f"{longest} positions are more than max_length={len(self.table)} learned ones; "
                f"max_length={longest} works"
            )

    def place(self, query: Tensor, key: Tensor, start: int) -> tuple[Tensor, Tensor]:
        self.check_lengths(start + query.shape[2], key.shape[2])
        rows = self.table[start : start + query.shape[2]]
        return query + rows, key + self.table[: key.shape[2]]


class Rotary(Positions):
    """Pairs of components rotated by position times frequency (Su et al. 2021, eq. 14–15).

    q·k then depends on the contents and the distance only. Component i is paired with i + E/2.

    Args:
        num_heads: number of query heads.
        head_dim: width of one head; even.
        base: frequencies go down from 1 to 1/base.

    Raises:
        ValueError: if the head's width is odd or the base is not above 1.
    """

    formula = "R_i q · R_j k"
    paper = "Su et al. 2021"

    def __init__(self, num_heads: int, head_dim: int, base: float = 10000.0) -> None:
        super().__init__(num_heads, head_dim)
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even width of a head, got {head_dim}")
        if base <= 1:
            raise ValueError(f"base must be above 1, got {base}")
        self.base = base

    def place(self, query: Tensor, key: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return self._rotate(query, start), self._rotate(key, 0)

    def _rotate(self, x: Tensor, start: int) -> Tensor:
        angles = _angles(x, start, self.head_dim, self.base)
        cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)


class ALiBi(Positions):
    """``logits − m·|i − j|``, a fixed slope m for each head (Press et al. 2022, §3)."""

    formula = "l − m·|i − j|"
    paper = "Press et al. 2022"
    bias_needs_grad = False
    bias_is_relative = True

    def bias(self, query: Tensor, start: int, keys: int) -> Tensor:
        # Not a buffer: a non-persistent one has no values after to_empty and load_state_dict.
        return -_slopes(query, self.num_heads) * _distance(query, start, keys).abs_()


class T5Bias(Positions):
    """A learned bias for each head and bucket of distances (Raffel et al. 2020, §2.1).

    Half of the buckets are single distances, the rest grow logarithmically up to ``max_distance``
    and hold everything beyond it. Keys before and after the query have buckets of their own.

    Args:
        num_heads: number of query heads.
        head_dim: width of one head.
        num_buckets: number of buckets; a multiple of 4.
        max_distance: where the last bucket begins.

    Raises:
        ValueError: if ``num_buckets`` is not a multiple of 4, or ``max_distance`` is not above a
            quarter of it.
    """

    formula = "l + b[bucket(j − i)]"
    paper = "Raffel et al. 2020"
    bias_is_relative = True

    def __init__(
        self, num_heads: int, head_dim: int, num_buckets: int = 32, max_distance: int = 128
    ) -> None:
        super().__init__(num_heads, head_dim)
        if num_buckets < 4 or num_buckets % 4:
            raise ValueError(f"num_buckets must be a multiple of 4, got {num_buckets}")
        if max_distance <= num_buckets // 4:
            raise ValueError(f"max_distance must be above {num_buckets // 4}, got {max_distance}")
        self.max_distance = max_distance
        self.table = nn.Parameter(torch.randn(num_heads, num_buckets) * 0.1)

    def bias(self, query: Tensor, start: int, keys: int) -> Tensor:
        # The bucket is found once for each distance, not for each pair. The gradient of
        # index_select is several times as fast as that of an index in brackets.
        queries = query.shape[2]
        nearest = 1 - start - queries
        distances = torch.arange(nearest, keys - start + 1, device=query.device)
        by_distance = wide(self.table)[:, self._bucket(distances)]
        index = _distance(query, start, keys) - nearest
        return by_distance.index_select(1, index.flatten()).unflatten(1, (queries, keys))

    def _bucket(self, distance: Tensor) -> Tensor:
        per_side = self.table.shape[1] // 2
        single = per_side // 2
        far = distance.abs().clamp(min=single)
        growth = torch.log(far / single) / math.log(self.max_distance / single)
        logarithmic = single + (growth * (per_side - single)).long()
        near = distance.abs()
        bucket = torch.where(near < single, near, logarithmic.clamp(max=per_side - 1))
        return bucket + per_side * (distance > 0)


class Shaw(Positions):
    """logits + q · a[j − i] / √E, learned vectors for clipped distances (Shaw et al. 2018, eq. 4).

    The paper also adds such vectors to the values, which did not improve its results (table 3).

    Args:
        num_heads: number of query heads.
        head_dim: width of one head.
        max_distance: distances are clipped to it.

    Raises:
        ValueError: if a size is below 1.
    """

    formula = "l + q·a[j − i] / √d"
    paper = "Shaw et al. 2018"
    bias_is_relative = True

    def __init__(self, num_heads: int, head_dim: int, max_distance: int = 16) -> None:
        super().__init__(num_heads, head_dim)
        check_positive(max_distance=max_distance)
        self.max_distance = max_distance
        self.table = nn.Parameter(torch.randn(2 * max_distance + 1, head_dim) * head_dim**-0.5)

    @without_autocast
    def bias(self, query: Tensor, start: int, keys: int) -> Tensor:
        # One product with each distance, then a lookup: no (L, S, E) tensor.
        by_distance = (wide(query) * self.head_dim**-0.5) @ wide(self.table).mT
        limit = self.max_distance
        index = _distance(query, start, keys).clamp_(-limit, limit).add_(limit)
        return by_distance.gather(-1, index.expand(*query.shape[:3], keys))


def _positions(x: Tensor, start: int, length: int) -> Tensor:
    return torch.arange(start, start + length, device=x.device)


def _distance(query: Tensor, start: int, keys: int) -> Tensor:
    """The distances j − i, (L, S) int64."""
    rows = _positions(query, start, query.shape[2])
    return _positions(query, 0, keys) - rows.unsqueeze(-1)


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _angles(x: Tensor, start: int, width: int, base: float = 10000.0) -> Tensor:
    """Position · base^(−2i / width), (L, ⌈width / 2⌉); never in half precision."""
    dtype = _wide_dtype(x)
    exponents = torch.arange(0, width, 2, dtype=dtype, device=x.device) / width
    return _positions(x, start, x.shape[2]).to(dtype).unsqueeze(-1) * base**-exponents


def _slopes(x: Tensor, num_heads: int) -> Tensor:
    """ALiBi's slopes (H, 1, 1), geometric, down to 2⁻⁸; never in half precision.

    If H is not a power of two, they come from the series of the two nearest powers.
    """
    lower = 2 ** (num_heads.bit_length() - 1)
    dtype, device = _wide_dtype(x), x.device
    rank = torch.arange(1, lower + 1, dtype=dtype, device=device)
    exponents = torch.cat([rank, rank[: num_heads - lower] - 0.5]) / lower
    return torch.exp2(-8 * exponents).view(num_heads, 1, 1)
