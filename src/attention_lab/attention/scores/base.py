"""What a score is: the function from queries and keys to attention logits."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from attention_lab.attention.checks import check_positive


class Score(nn.Module, ABC):
    """How well each key answers each query, before normalization.

    Args:
        heads: number of query heads, H. Parameters are per head.
        head_dim: width of one head's queries and keys, E.

    Raises:
        ValueError: if either is below 1.
    """

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        check_positive(heads=heads, head_dim=head_dim)
        self.heads = heads
        self.head_dim = head_dim

    @abstractmethod
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Logits (B, H, L, S) of queries (B, H, L, E) against keys (B, H, S, E)."""


class DotProductFamily(Score):
    """A score that is a scaled dot product of the keys with some function of the query.

    Backends built around the dot product (SDPA, FlexAttention) can compute every such score.
    """

    @abstractmethod
    def fold(self, query: Tensor) -> tuple[Tensor, float]:
        """The query q' (B, H, L, E) and the scale with logits = scale · q' kᵀ."""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        query, scale = self.fold(query)
        return (scale * query) @ key.mT  # scaled first: half precision overflows later
