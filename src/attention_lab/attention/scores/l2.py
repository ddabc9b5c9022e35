"""The distance of query and key."""

import torch
from torch import Tensor

from attention_lab.attention.inputs import repeat_heads
from attention_lab.attention.precision import wide, without_autocast
from attention_lab.attention.scores.base import DotProductFamily


class L2(DotProductFamily):
    """``logits = −|q − k|² / √E``: the nearest key weighs most (Kim et al. 2021).

    The paper also ties the projections of queries and keys, which makes attention Lipschitz; this
    class does not.
    """

    formula = "−|q − k|² / √d"
    paper = "Kim et al. 2021"
    ever_positive = False
    folds_exactly = False

    @without_autocast
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        # A difference of large squares: inaccurate in half precision, and rounding can make it < 0.
        q, k = _centred(wide(query), wide(key))
        squares = q.square().sum(-1, keepdim=True) + k.square().sum(-1).unsqueeze(-2)
        distance = (squares - 2 * (q @ k.mT)).clamp(min=0)
        return -(self.head_dim**-0.5) * distance

    @without_autocast
    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        """``2q · k − |k|²``, with ``|k|²`` as one more dimension; a softmax ignores ``|q|²``.

        Half precision becomes single precision, as in :meth:`forward`.
        """
        q, k = _centred(wide(query), wide(key))
        folded_query = torch.cat([2 * q, torch.full_like(q[..., :1], -1)], dim=-1)
        folded_key = torch.cat([k, k.square().sum(-1, keepdim=True)], dim=-1)
        return folded_query, folded_key, self.head_dim**-0.5


def _centred(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Both minus the first key, which leaves distances as they are.

    Far from the origin, squares are much larger than distances, and their difference is inaccurate.
    The first key is visible to every query with a causal mask. If it is hidden, it may be anything.
    """
    if not key.shape[2]:
        return query, key
    centre = key[:, :, :1].detach().nan_to_num(posinf=0.0, neginf=0.0)
    groups = query.shape[1] // key.shape[1]
    return query - repeat_heads(centre, groups), key - centre
