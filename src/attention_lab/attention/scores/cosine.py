"""The cosine of query and key, with a learned temperature."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention.precision import wide
from attention_lab.attention.scores.base import DotProductFamily


class Cosine(DotProductFamily):
    """``logits = g · q·k / (|q| |k|)``, g learned for each head (Henry et al. 2020, QK-norm).

    Logits are between −g and g, whatever the norms of queries and keys.

    Args:
        num_heads: number of query heads.
        head_dim: width of one head.
        gain: initial value of g.

    Raises:
        ValueError: if the gain is not positive.
    """

    formula = "g · cos(q, k)"
    paper = "Henry et al. 2020"

    def __init__(self, num_heads: int, head_dim: int, gain: float = 10.0) -> None:
        super().__init__(num_heads, head_dim)
        if gain <= 0:
            raise ValueError(f"gain must be above 0, got {gain}")
        self.gain = nn.Parameter(torch.full((num_heads, 1, 1), float(gain)))

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return self.gain.to(query.dtype) * _unit(query), _unit(key), 1.0


def _unit(x: Tensor) -> Tensor:
    """Scale x to unit length; 0 stays 0, with a bounded gradient.

    Not in half precision, where eps would be 0.
    """
    return F.normalize(wide(x), dim=-1, eps=1e-6).to(x.dtype)
