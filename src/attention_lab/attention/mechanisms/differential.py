"""Differential attention: the difference of two softmax maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention.backends import (
    EAGER,
    AttentionInputs,
    AttentionSpec,
    able_backends,
    choose_backend,
)
from attention_lab.attention.capabilities import Capabilities
from attention_lab.attention.layer import AttentionLayer
from attention_lab.attention.masks import Mask
from attention_lab.attention.normalizers import Softmax
from attention_lab.attention.precision import wide
from attention_lab.attention.scores import ScaledDotProduct
from attention_lab.attention.validation import check_dropout


class DifferentialAttention(AttentionLayer):
    """(softmax(q₁k₁ᵀ) − λ softmax(q₂k₂ᵀ)) V, what both maps see cancels (Ye et al. 2025, eq. 1).

    q₁, q₂ and k₁, k₂ are the halves of a head's query and key. λ is learned for all heads as in
    eq. 2; the output of each head is normalized (RMS) and scaled by 1 − λ_init, as in eq. 3.

    Args:
        embed_dim: width of the queries, and of the output.
        kdim: width of what is attended to; None means ``embed_dim``.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; None means ``num_heads``.
        head_dim: size of one head; None means ``embed_dim / num_heads``.
        bias: whether the projections have one.
        gate: whether a sigmoid of the query gates the output.
        mask: the mechanism's own mask, on top of the one that each call brings.
        initial_lambda: where λ starts; the paper's lie between 0.2 (first layer) and 0.8 (last).
        dropout: probability of dropping a weight in training, in each map.
        backend: "auto" or one of ``BACKENDS``.

    Raises:
        ValueError: if a value is out of range, sizes do not agree, or the backend is unknown.
    """

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        gate: bool = False,
        mask: Mask | None = None,
        initial_lambda: float = 0.8,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            embed_dim,
            kdim,
            head_dim=head_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            bias=bias,
            gate=gate,
            mask=mask,
        )
        check_dropout(dropout)
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even (two maps), got {self.head_dim}")
        if not 0 <= initial_lambda < 1:
            raise ValueError(f"initial_lambda must be in [0, 1), got {initial_lambda}")
        self.initial_lambda, self.dropout = initial_lambda, dropout
        half = self.head_dim // 2
        #: λ = exp(a·b) − exp(c·d) + λ_init, rows a, b, c, d.
        self.lambda_vectors = nn.Parameter(torch.randn(4, half) * 0.1)
        self.norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.score, self.normalizer = ScaledDotProduct(num_heads, half), Softmax()
        self.backend = choose_backend(backend, self._spec())

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            formula="softmax(q₁·k₁ / √d) − λ softmax(q₂·k₂ / √d)",
            paper="Ye et al. 2025",
            backends=tuple(backend.name for backend in able_backends(self._spec())),
            memory="L·S" if self.backend is EAGER else "S·d",
            linear_in_values=False,  # the norm
            distribution=False,
            double_backward=self.backend.double_backward,
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
        a, b, c, d = self.lambda_vectors
        factor = (a @ b).exp() - (c @ d).exp() + self.initial_lambda
        (first, its_map), (second, other_map) = (
            self.backend.attend(
                AttentionInputs(q, k, value, mask, self._spec(), start=start), need_weights
            )
            for q, k in zip(query.chunk(2, dim=-1), key.chunk(2, dim=-1), strict=True)
        )
        output = (1 - self.initial_lambda) * self._normalize(first - factor * second)
        if its_map is None or other_map is None:
            return output, None
        return output, (its_map - factor * other_map).to(query.dtype)

    def _normalize(self, x: Tensor) -> Tensor:
        """RMSNorm per head, not in half precision."""
        weight = wide(self.norm.weight)
        return F.rms_norm(wide(x), self.norm.normalized_shape, weight, self.norm.eps).to(x.dtype)

    def _spec(self) -> AttentionSpec:
        return AttentionSpec(
            self.score, self.normalizer, dropout=self.dropout if self.training else 0.0
        )
