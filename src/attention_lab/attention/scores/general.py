"""Luong's general (bilinear) score."""

import torch
from torch import Tensor, nn

from attention_lab.attention.scores.base import DotProductFamily, map_heads


class General(DotProductFamily):
    """logits = qᵀ W k, one matrix W (E × E) per head (Luong et al. 2015, eq. 8, "general")."""

    formula = "qᵀ W k"
    paper = "Luong et al. 2015"
    projections = "values"

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads, head_dim)
        self.weight = nn.Parameter(torch.empty(num_heads, head_dim, head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform per head: the paper states none; W q has the scale of q."""
        for matrix in self.weight:
            nn.init.xavier_uniform_(matrix)

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return map_heads(query, self.weight), key, 1.0


class Biaffine(General):
    """logits = qᵀ W k + u · k (Dozat & Manning 2017, §2.2).

    The bias u · k is the same for all queries.
    """

    formula = "qᵀ W k + u·k"
    paper = "Dozat & Manning 2017"

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads, head_dim)
        self.bias = nn.Parameter(torch.zeros(num_heads, 1, head_dim))

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return map_heads(query, self.weight) + self.bias, key, 1.0
