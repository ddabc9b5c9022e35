"""The base classes of scores: functions from queries and keys to attention logits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_positive
from attention_lab.attention.precision import wide, without_autocast


class Score(nn.Module, ABC):
    """How well each key matches each query: logits, before normalization.

    Args:
        num_heads: number of query heads, H. Parameters are per head.
        head_dim: width of one head's queries and keys, E.

    Raises:
        ValueError: if either is below 1.
    """

    #: logits = …, and who published it.
    formula: ClassVar[str]
    paper: ClassVar[str]
    #: Costs, and the arguments that their letters stand for: see MechanismInfo.
    time: ClassVar[str] = "L·S·d"
    memory: ClassVar[str] = "L·S"
    symbols: ClassVar[Mapping[str, str]] = {}
    #: The projections that a layer with this score needs: "values" if the score itself maps
    #: queries and keys, or uses no keys.
    projections: ClassVar[Literal["all", "values"]] = "all"
    #: Whether logits depend on the positions of the keys, too.
    positional: ClassVar[bool] = False
    #: Whether logits can be above 0.
    ever_positive: ClassVar[bool] = True
    #: Whether logits depend on queries or keys at all.
    uses_inputs: ClassVar[bool] = True

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        check_positive(num_heads=num_heads, head_dim=head_dim)
        self.num_heads = num_heads
        self.head_dim = head_dim

    @property
    def cached_key_map(self) -> Callable[[Tensor], Tensor] | None:
        """The score's map of each key by itself, (B, H, S, E) → (B, H, S, A), if it has one.

        Decoding caches its results. Then :meth:`forward` must also take them in place of the keys,
        with the argument ``keys_are_mapped=True``.
        """
        return None

    def check_lengths(self, keys: int) -> None:  # most have no limit
        """Raise ValueError if there are more keys than the score was made for."""

    @abstractmethod
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Logits (B, H, L, S) of queries (B, H, L, E) against keys (B, H, S, E).

        Logits may be in a higher precision than the queries, in whose precision they can overflow.
        """


class DotProductFamily(Score):
    """A score that is a scaled dot product of functions of the query and of the key.

    Backends built around the dot product (SDPA, FlexAttention) compute a softmax of every such
    score.
    """

    #: Whether the folded logits are those of the score, without a constant for each query.
    folds_exactly: ClassVar[bool] = True

    @abstractmethod
    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return q' (B, H, L, E'), k' (B, H_kv, S, E') and the scale: logits = scale · q' k'ᵀ.

        Unless :attr:`folds_exactly`, logits may differ by a constant for each query, which a
        softmax removes. Query heads may share a key head, so k' must not depend on the query head.
        """

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return self._product(*self.fold(query, key))

    @without_autocast
    def _product(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        # Half precision could overflow; fused kernels accumulate in single precision, too.
        return (scale * wide(query)) @ wide(key).mT


def map_heads(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply the vectors of each head, x (B, H, L, E), with its matrix, weight (H, E, A)."""
    # Not x @ weight, which would copy the weight, and sum its gradient, for each example.
    return torch.einsum("bhle,hea->bhla", x, weight)
