"""The distance of query and key."""

from torch import Tensor

from attention_lab.attention.scores.base import Score


class L2(Score):
    """logits = −|q − k|² / √E: the nearest key weighs most (Kim et al. 2021).

    Without the tied queries and keys by which the paper makes it Lipschitz.
    """

    formula = "−|q − k|² / √d"
    paper = "Kim et al. 2021"
    ever_positive = False

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        scale = self.head_dim**-0.5
        query_norm = (scale * query.square()).sum(-1, keepdim=True)
        key_norm = (scale * key.square()).sum(-1).unsqueeze(-2)
        return (2 * scale * query) @ key.mT - query_norm - key_norm
