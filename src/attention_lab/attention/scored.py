"""Attention that factors into a score and a normalizer: most of what is called attention."""

from collections.abc import Callable

from torch import Tensor

from attention_lab.attention.backends import EAGER, Problem, choose_backend
from attention_lab.attention.checks import check_dropout
from attention_lab.attention.layer import AttentionLayer, Projections
from attention_lab.attention.masks import Mask
from attention_lab.attention.normalizers import Normalizer
from attention_lab.attention.scores import Score


class ScoredAttention(AttentionLayer):
    """output = normalize(score(Q, K)) · V, over the visible keys.

    With the scaled dot product and softmax this is softmax(QKᵀ/√E) · V (Vaswani et al. 2017,
    eq. 1).

    Args:
        query_dim: width of the queries, and of the output.
        memory_dim: width of what is attended to; None means ``query_dim``.
        score: makes the score from (heads, head_dim).
        normalizer: makes what turns logits into weights.
        width: width of all heads together; None means ``query_dim``.
        heads: number of query heads.
        kv_heads: number of key and value heads; None means ``heads``.
        projections: "all", "values" (the score has its own maps of queries and keys) or "none".
        bias: whether the projections have one.
        mask: the mechanism's own mask, on top of the one that each call brings.
        dropout: probability of dropping a weight in training.
        backend: "auto", "eager" or "sdpa"; "auto" takes the fastest that can compute it.

    Raises:
        ValueError: if a value is out of range, sizes do not agree, or the backend cannot do it.
    """

    def __init__(
        self,
        query_dim: int,
        memory_dim: int | None = None,
        *,
        score: Callable[[int, int], Score],
        normalizer: Callable[[], Normalizer],
        width: int | None = None,
        heads: int = 1,
        kv_heads: int | None = None,
        projections: Projections = "all",
        bias: bool = False,
        mask: Mask | None = None,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            query_dim,
            memory_dim,
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            projections=projections,
            bias=bias,
            mask=mask,
        )
        check_dropout(dropout)
        self.score = score(heads, self.head_dim)
        self.normalizer = normalizer()
        self.dropout = dropout
        self.backend = choose_backend(backend, self.score, self.normalizer)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        problem = Problem(query, key, value, mask, self.score, self.normalizer, dropout)
        backend = self.backend
        if need_weights and not backend.gives_weights:
            backend = EAGER
        output, weights = backend.compute(problem)
        return output, weights if need_weights else None
