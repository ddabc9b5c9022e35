"""Differential attention: the difference of two softmax maps."""

from dataclasses import replace
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.argument_checks import check_dropout
from attention_lab.attention.backends.api import choose_backend
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.layer import AttentionLayer, LayerOptions
from attention_lab.attention.normalizers import Softmax
from attention_lab.attention.precision import wide
from attention_lab.attention.scores import ScaledDotProduct


class DifferentialAttention(AttentionLayer):
    """(softmax(q₁k₁ᵀ) − λ softmax(q₂k₂ᵀ)) V: noise common to both maps cancels (Ye et al. 2025).

    q₁, q₂ and k₁, k₂ are the halves of a head's query and key (eq. 1). All heads share the learned
    λ = exp(a·b) − exp(c·d) + λ_init (eq. 2). Each head's output is normalized (RMS, in at least
    single precision) and scaled by 1 − λ_init (eq. 3).

    Args:
        embed_dim, kdim, layer: see :class:`AttentionLayer`. ``head_dim`` must be even.
        lambda_init: λ_init; the paper's lie between 0.2 (first layer) and 0.8 (last).
        dropout, backend: see :class:`ScoredAttention`.

    Raises:
        ValueError: if a value is out of range, sizes do not agree, or the backend is unknown.
    """

    info = MechanismInfo(
        formula="softmax(q₁·k₁ / √d) − λ softmax(q₂·k₂ / √d)",
        paper="Ye et al. 2025",
        linear_in_values=False,  # the norm
        distribution=False,
    )

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        lambda_init: float = 0.8,
        dropout: float = 0.0,
        backend: str = "auto",
        **layer: Unpack[LayerOptions],
    ) -> None:
        super().__init__(embed_dim, kdim, **layer)
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even (two maps), got {self.head_dim}")
        if not 0 <= lambda_init < 1:
            raise ValueError(f"lambda_init must be in [0, 1), got {lambda_init}")
        self.lambda_init, self.dropout = lambda_init, check_dropout(dropout)
        self.lambda_vectors = nn.Parameter(torch.randn(4, self.head_dim // 2) * 0.1)
        self.norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.score = ScaledDotProduct(self.num_heads, self.head_dim // 2)
        self.normalizer = Softmax()
        self.backend = choose_backend(backend, self._spec())
        self.info = self.backend.describe(self.info, self._spec())

    def attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        a, b, c, d = self.lambda_vectors
        factor = (a @ b).exp() - (c @ d).exp() + self.lambda_init
        (first, its_map), (second, other_map) = (
            self.backend.attend(replace(inputs, query=q, key=k), self._spec())
            for q, k in zip(inputs.query.chunk(2, -1), inputs.key.chunk(2, -1), strict=True)
        )
        output = first - factor * second
        output = F.rms_norm(wide(output), (self.head_dim,), wide(self.norm.weight), self.norm.eps)
        if its_map is not None and other_map is not None:
            its_map = (its_map - factor * other_map).to(inputs.query.dtype)
        return (1 - self.lambda_init) * output.to(first.dtype), its_map

    def _spec(self) -> AttentionSpec:
        return AttentionSpec(self.score, self.normalizer, dropout=self.dropout_p)
