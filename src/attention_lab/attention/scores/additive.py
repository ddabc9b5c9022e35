"""Bahdanau's additive score."""

from collections.abc import Callable
from functools import partial

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

    @property
    def cached_key_map(self) -> Callable[[Tensor], Tensor]:
        return partial(map_heads, weight=self.key_weight)

    def forward(
        self, query: Tensor, key: Tensor, fused: bool = False, keys_are_mapped: bool = False
    ) -> Tensor:
        """Logits (B, H, L, S): see :class:`Score`.

        Args:
            query, key: see :class:`Score`.
            fused: whether to compute them in at least single precision, without hidden layers of
                all pairs.
            keys_are_mapped: whether the keys are U k already, (B, H, S, A).
        """
        projected_query, projected_key = self.project(query, key, keys_are_mapped)
        if fused:
            return self._fused(wide(projected_query), wide(projected_key))
        hidden = torch.tanh(projected_query.unsqueeze(-2) + projected_key.unsqueeze(-3))
        return torch.einsum("bhlsa,ha->bhls", hidden, self.vector)

    def _fused(self, query: Tensor, key: Tensor) -> Tensor:
        batch, heads = query.shape[:2]
        vector = self.vector.to(query.dtype).expand(batch, *self.vector.shape)
        logits = additive_logits(query.flatten(0, 1), key.flatten(0, 1), vector.flatten(0, 1))
        return logits.unflatten(0, (batch, heads))

    def project(
        self, query: Tensor, key: Tensor, keys_are_mapped: bool = False
    ) -> tuple[Tensor, Tensor]:
        """W q (B, H, L, A) and U k (B, H, S, A), once for each position (§A.1.2)."""
        projected_key = key if keys_are_mapped else self.cached_key_map(key)
        return map_heads(query, self.query_weight), projected_key
