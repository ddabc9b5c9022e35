"""Bahdanau's additive score."""

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_positive
from attention_lab.attention.scores.base import Score


class Additive(Score):
    """logits = v · tanh(W q + U k), a one-layer network (Bahdanau et al. 2015, §A.1.2).

    W and U are (A × E) and v is (A) for each head.

    Args:
        num_heads: number of query heads, H.
        head_dim: width of one head's queries and keys, E.
        hidden_dim: width of the hidden layer, A; None means A = E.

    Raises:
        ValueError: if ``hidden_dim`` is below 1.
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
        """Xavier-uniform W and U, and v with variance 1/A: logits start at the order of 1.

        (The paper starts v at zero, and W and U near it; ibid., §B.1.)
        """
        for matrix in (*self.query_weight, *self.key_weight):
            nn.init.xavier_uniform_(matrix)
        nn.init.normal_(self.vector, std=self.vector.shape[-1] ** -0.5)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        # U k is computed once per key, not once per pair (ibid.: "can be pre-computed").
        projected_query = (query @ self.query_weight).unsqueeze(-2)  # (B, H, L, 1, A)
        projected_key = (key @ self.key_weight).unsqueeze(-3)  # (B, H, 1, S, A)
        hidden = torch.tanh(projected_query + projected_key)
        return torch.einsum("bhlsa,ha->bhls", hidden, self.vector)


class Concat(Additive):
    """logits = v · tanh(W [q; k]) (Luong et al. 2015, eq. 8, "concat").

    The same function as the additive score, W = [W_q, W_k], but initialized as the one matrix
    that it is here.
    """

    formula = "v·tanh(W [q; k])"
    paper = "Luong et al. 2015"

    def reset_parameters(self) -> None:
        """Xavier-uniform W (2E → A), and v with variance 1/A."""
        super().reset_parameters()
        for query, key in zip(self.query_weight, self.key_weight, strict=True):
            joint = nn.init.xavier_uniform_(torch.cat([query.detach(), key.detach()]))
            query.data, key.data = joint.chunk(2)
