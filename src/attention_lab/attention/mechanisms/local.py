"""Luong's local attention: a window around a predicted position."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention.backends import (
    AttentionInputs,
    AttentionSpec,
    eager_weights,
    repeat_heads,
)
from attention_lab.attention.capabilities import Capabilities
from attention_lab.attention.layer import AttentionLayer, Projections
from attention_lab.attention.masks import Dense, Mask, NoMask
from attention_lab.attention.normalizers import Softmax
from attention_lab.attention.precision import wide
from attention_lab.attention.scores import Score
from attention_lab.attention.validation import check_dropout, check_positive, make_part


class LocalAttention(AttentionLayer):
    """local-p: softmax(score) · exp(−(s − p)² / 2σ²) (Luong et al. 2015, §3.2).

    s counts the keys that the query may see, n of them; p = n · sigmoid(v · tanh(W q)) is where the
    query expects what it looks for. The softmax is over the keys within D of p; as in the paper,
    its weights are not normalized again after the Gaussian, whose σ is D/2.

    Args:
        embed_dim: width of the queries, and of the output.
        kdim: width of what is attended to; None means ``embed_dim``.
        score: makes the score from (num_heads, head_dim).
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; None means ``num_heads``.
        head_dim: size of one head; None means ``embed_dim / num_heads``.
        projections: "all", "values" or "none".
        bias: whether the projections have one.
        gate: whether a sigmoid of the query gates the output.
        mask: the mechanism's own mask, on top of the one that each call brings.
        radius: D, in keys.
        dropout: probability of dropping a weight in training.

    Raises:
        ValueError: if a value is out of range or sizes do not agree.
    """

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        score: Callable[[int, int], Score],
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        projections: Projections = "all",
        bias: bool = False,
        gate: bool = False,
        mask: Mask | None = None,
        radius: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            kdim,
            head_dim=head_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            projections=projections,
            bias=bias,
            gate=gate,
            mask=mask,
        )
        check_positive(radius=radius)
        check_dropout(dropout)
        self.radius, self.dropout = radius, dropout
        self.score: Score = make_part("score", score, Score, num_heads, self.head_dim)
        self.normalizer = Softmax()
        self.place_map = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))
        self.place_vector = nn.Parameter(
            torch.randn(num_heads, self.head_dim, 1) * self.head_dim**-0.5
        )
        for matrix in self.place_map:
            nn.init.xavier_uniform_(matrix)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            formula=f"softmax of {self.score.formula}, times exp(−(j − p)² / 2σ²)",
            paper="Luong et al. 2015",
            distribution=False,
            sparse=True,
            positional=True,
        )

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | None,
        need_weights: bool,
        start: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        distance, visible = self._distance(query, key, mask, start)
        window = Dense(visible & (distance.abs() <= self.radius))
        inputs = AttentionInputs(
            query, key, value, window, AttentionSpec(self.score, self.normalizer)
        )
        nearness = torch.exp(-2 * (distance / self.radius).square())
        weights = eager_weights(inputs) * nearness
        dropout = self.dropout if self.training else 0.0
        dropped = F.dropout(weights, dropout).to(value.dtype)
        output = dropped @ repeat_heads(value, inputs.groups)
        return output, weights.to(query.dtype) if need_weights else None

    def _distance(
        self, query: Tensor, key: Tensor, mask: Mask | None, start: int
    ) -> tuple[Tensor, Tensor]:
        """S − p and what is visible, (B, H, L, S); a centre needs more than half precision."""
        batch, num_heads, queries, _ = query.shape
        keys = key.shape[2]
        own = NoMask() if mask is None else mask
        visible = own.dense(batch, num_heads, queries, keys, query.device, start)
        visible = visible.expand(batch, num_heads, queries, keys)
        fraction = torch.sigmoid(wide(torch.tanh(query @ self.place_map) @ self.place_vector))
        rank = visible.cumsum(-1)
        return (rank - 1) - rank[..., -1:] * fraction, visible
