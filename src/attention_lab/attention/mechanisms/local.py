"""Luong's local attention: a window around a predicted position."""

from collections.abc import Callable
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_dropout, check_positive
from attention_lab.attention.backends.reference import eager_weights
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.layer import AttentionLayer, LayerOptions, Projections
from attention_lab.attention.masks import Dense
from attention_lab.attention.normalizers import Softmax
from attention_lab.attention.parts import make_part
from attention_lab.attention.precision import wide
from attention_lab.attention.scores import Score


class LocalAttention(AttentionLayer):
    """local-p: softmax(score) · exp(−(s − p)² / 2σ²) (Luong et al. 2015, §3.2).

    s counts the n visible keys, and p = n · sigmoid(v · tanh(W q)) is the predicted position. The
    softmax is over the keys within D of p. σ is D/2, and weights need not sum to 1.

    Args:
        embed_dim, kdim, layer: see :class:`AttentionLayer`.
        score, projections, dropout: see :class:`ScoredAttention`.
        radius: D, in keys.

    Raises:
        ValueError: if a value is out of range or sizes do not agree.
    """

    info = MechanismInfo(
        formula="softmax of {}, times exp(−(j − p)² / 2σ²)",
        paper="Luong et al. 2015",
        distribution=False,
        sparse=True,
        positional=True,
    )

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        score: Callable[[int, int], Score],
        radius: int = 10,
        projections: Projections = "all",
        dropout: float = 0.0,
        **layer: Unpack[LayerOptions],
    ) -> None:
        super().__init__(embed_dim, kdim, projections=projections, **layer)
        check_positive(radius=radius)
        self.radius, self.dropout, self.normalizer = radius, check_dropout(dropout), Softmax()
        heads, size = self.num_heads, self.head_dim
        self.score: Score = make_part("score", score, Score, heads, size)
        self.position_map = nn.Parameter(torch.empty(heads, size, size))
        self.position_vector = nn.Parameter(torch.randn(heads, size, 1) * size**-0.5)
        for matrix in self.position_map:
            nn.init.xavier_uniform_(matrix)
        self.info = replace(self.info, formula=self.info.formula.format(self.score.formula))

    @property
    def cached_key_map(self) -> Callable[[Tensor], Tensor] | None:
        return None if self.num_kv_heads < self.num_heads else self.score.cached_key_map

    def attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        query, visible = inputs.query, inputs.visible()
        size = (*query.shape[:3], inputs.key.shape[2])
        visible = query.new_ones(size).bool() if visible is None else visible.expand(size)
        fraction = torch.sigmoid(wide(torch.tanh(query @ self.position_map) @ self.position_vector))
        rank = visible.cumsum(-1)
        distance = (rank - 1) - rank[..., -1:] * fraction  # s − p, in at least float32
        near = Dense(visible & (distance.abs() <= self.radius))
        window = replace(inputs, mask=near, start=0)  # one row of the mask for each query
        weights = eager_weights(window, AttentionSpec(self.score, self.normalizer))
        weights = weights * torch.exp(-2 * (distance / self.radius).square())
        dropped = nn.functional.dropout(weights, self.dropout_p).to(inputs.value.dtype)
        output = dropped @ inputs.repeat_heads().value
        return output, weights.to(query.dtype) if inputs.need_weights else None
