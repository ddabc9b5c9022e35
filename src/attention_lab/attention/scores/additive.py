"""Bahdanau's additive score."""

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_positive
from attention_lab.attention.scores.base import Score


class Additive(Score):
    """logits = v · tanh(W q + U k), a one-layer network per head (Bahdanau et al. 2015, §A.1.2).

    Args:
        num_heads, head_dim: see :class:`Score`.
        hidden_dim: size of the hidden layer, A ≥ 1; None means ``head_dim``.
    """

    formula = "v·tanh(W q + U k)"
    paper = "Bahdanau et al. 2015"
    projections = "values"
    time, memory, symbols = "L·S·d·a", "L·S·a", {"a": "hidden_dim"}

    def __init__(self, num_heads: int, head_dim: int, hidden_dim: int | None = None) -> None:
        super().__init__(num_heads, head_dim)
        hidden_dim = head_dim if hidden_dim is None else hidden_dim
        check_positive(hidden_dim=hidden_dim)
        self.query_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden_dim))
        self.key_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden_dim))
        self.vector = nn.Parameter(torch.empty(num_heads, hidden_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform W and U, and v with variance 1/A (in the paper, v starts at 0; §B.1)."""
        for matrix in (*self.query_weight, *self.key_weight):
            nn.init.xavier_uniform_(matrix)
        nn.init.normal_(self.vector, std=self.vector.shape[-1] ** -0.5)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        # W q and U k are computed once for each position, not for each pair (ibid., §A.1.2).
        projected_query = (query @ self.query_weight).unsqueeze(-2)  # (B, H, L, 1, A)
        projected_key = (key @ self.key_weight).unsqueeze(-3)  # (B, H, 1, S, A)
        hidden = torch.tanh(projected_query + projected_key)
        return torch.einsum("bhlsa,ha->bhls", hidden, self.vector)
