"""The distance of query and key."""

from torch import Tensor

from attention_lab.attention.precision import wide, without_autocast
from attention_lab.attention.scores.base import Score


class L2(Score):
    """logits = −|q − k|² / √E: the nearest key weighs most (Kim et al. 2021).

    The paper also ties the projections of queries and keys, which makes attention Lipschitz; this
    class does not.
    """

    formula = "−|q − k|² / √d"
    paper = "Kim et al. 2021"
    ever_positive = False

    @without_autocast
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        # A difference of large squares: inaccurate in half precision, and rounding can make it < 0.
        q, k = wide(query), wide(key)
        squares = q.square().sum(-1, keepdim=True) + k.square().sum(-1).unsqueeze(-2)
        distance = (squares - 2 * (q @ k.mT)).clamp(min=0)
        return -(self.head_dim**-0.5) * distance
