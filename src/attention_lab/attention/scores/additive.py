"""Bahdanau's additive score."""

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_positive
from attention_lab.attention.backends.additive_logits import additive_logits
from attention_lab.attention.precision import wide
from attention_lab.attention.scores.base import Score, map_heads


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

    def forward(self, query: Tensor, key: Tensor, fused: bool = False) -> Tensor:
        """Logits (B, H, L, S): see :class:`Score`.

        Args:
            query, key: see :class:`Score`.
            fused: whether to compute them in at least single precision, without hidden layers of
                all pairs.
        """
        if fused:
            return self._fused(query, key)
        projected_query, projected_key = self.project(query, key)
        hidden = torch.tanh(projected_query.unsqueeze(-2) + projected_key.unsqueeze(-3))
        return torch.einsum("bhlsa,ha->bhls", hidden, self.vector)

    def _fused(self, query: Tensor, key: Tensor) -> Tensor:
        projected_query, projected_key = map(wide, self.project(query, key))
        batch, heads = projected_query.shape[:2]
        vector = self.vector.to(projected_query.dtype).expand(batch, *self.vector.shape)
        logits: Tensor = additive_logits(
            projected_query.flatten(0, 1), projected_key.flatten(0, 1), vector.flatten(0, 1)
        )
        return logits.unflatten(0, (batch, heads))

    def project(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, L, A) and (B, H, S, A), once for each position, not for each pair (§A.1.2)."""
        return map_heads(query, self.query_weight), map_heads(key, self.key_weight)
