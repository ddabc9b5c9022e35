"""Attention that factors into a score and a normalizer: most of what is called attention."""

from collections.abc import Callable

from torch import Tensor, nn

from attention_lab.attention.backends import (
    EAGER,
    AttentionInputs,
    AttentionSpec,
    able_backends,
    choose_backend,
)
from attention_lab.attention.capabilities import Capabilities
from attention_lab.attention.head_mixing import HeadMixing
from attention_lab.attention.layer import AttentionLayer, Projections
from attention_lab.attention.masks import Mask
from attention_lab.attention.normalizers import Normalizer, Softmax
from attention_lab.attention.positions import NoPositions, Positions
from attention_lab.attention.scores import Additive, Score
from attention_lab.attention.validation import check_dropout, make_part


class ScoredAttention(AttentionLayer):
    """output = normalize(score(Q, K) + positions) · V, over the visible keys.

    With the scaled dot product, softmax and no positions this is softmax(QKᵀ/√E) · V (Vaswani et
    al. 2017, eq. 1).

    Args:
        embed_dim: width of the queries, and of the output.
        kdim: width of what is attended to; None means ``embed_dim``.
        score: makes the score from (num_heads, head_dim).
        normalizer: makes what turns logits into weights.
        positions: makes what knows where queries and keys stand, from (num_heads, head_dim).
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; None means ``num_heads``.
        head_dim: size of one head; None means ``embed_dim / num_heads``.
        latent_dim: width of the latent that keys and values are made from; None means no latent.
        talking_heads: whether learned maps mix the heads' logits and weights.
        projections: "all", "values" (the score has its own maps of queries and keys) or "none".
        bias: whether the projections have one.
        gate: whether a sigmoid of the query gates the output.
        mask: the mechanism's own mask, on top of the one that each call brings.
        dropout: probability of dropping a weight in training.
        backend: "auto" or one of ``BACKENDS``; "auto" takes the fastest that can compute it.

    Raises:
        ValueError: if a value is out of range, sizes do not agree, score and normalizer exclude
            each other, or the backend cannot do it.
    """

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        score: Callable[[int, int], Score],
        normalizer: Callable[[], Normalizer],
        positions: Callable[[int, int], Positions] = NoPositions,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        latent_dim: int | None = None,
        talking_heads: bool = False,
        projections: Projections = "all",
        bias: bool = False,
        gate: bool = False,
        mask: Mask | None = None,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            embed_dim,
            kdim,
            head_dim=head_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            latent_dim=latent_dim,
            projections=projections,
            bias=bias,
            gate=gate,
            mask=mask,
        )
        check_dropout(dropout)
        self.score: Score = make_part("score", score, Score, num_heads, self.head_dim)
        self.normalizer: Normalizer = make_part("normalizer", normalizer, Normalizer)
        if self.normalizer.needs_positive and not self.score.ever_positive:
            raise ValueError(
                f"{type(self.normalizer).__name__} weighs logits above 0 only, and those of "
                f"{type(self.score).__name__} never are: nothing would be looked at"
            )
        self.positions: Positions = make_part(
            "positions", positions, Positions, num_heads, self.head_dim
        )
        places = not isinstance(self.positions, NoPositions) and not self.positions.adds_to_logits
        if places and not self.score.looks:
            raise ValueError(
                f"{type(self.score).__name__} looks at neither queries nor keys, so that "
                f"{type(self.positions).__name__} positions in them would change nothing"
            )
        self.mixing = HeadMixing(num_heads) if talking_heads else None
        self.dropout = dropout
        self.backend = choose_backend(backend, self.spec())

    @property
    def capabilities(self) -> Capabilities:
        score, normalizer, positions = self.score, self.normalizer, self.positions
        fused = self.backend is not EAGER
        variants = dict(self.variants)
        if self.mixing is not None:
            variants["talking heads"] = "Shazeer et al. 2020"
        memory = "L·S·a" if isinstance(score, Additive) else "L·S"
        if fused and not positions.adds_to_logits:
            memory = "S·d"
        papers = [score.paper, *variants.values()]
        if not isinstance(normalizer, Softmax):
            papers.append(normalizer.paper)
        return Capabilities(
            formula=", ".join([f"{normalizer.formula} of {score.formula}", *variants]),
            paper=papers[-1],
            time="L·S·d·a" if isinstance(score, Additive) else "L·S·d",
            memory=memory,
            backends=tuple(backend.name for backend in able_backends(self.spec())),
            grouped_heads=isinstance(self.key_projection, nn.Linear),
            state="S·r" if self.caches_latent else "S·d",
            distribution=normalizer.sums_to_one and self.mixing is None,
            sparse=normalizer.sparse,
            positional=score.positional or not isinstance(positions, NoPositions),
            double_backward=self.backend.double_backward,
        )

    def check_lengths(self, queries: int, keys: int) -> None:
        self.score.check_lengths(keys)
        self.positions.check_lengths(queries, keys)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | None,
        need_weights: bool,
        start: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        bias = self.positions.bias(query, start, key.shape[2])
        query, key = self.positions.place(query, key, start)
        needs_grad = self.positions.bias_needs_grad
        inputs = AttentionInputs(query, key, value, mask, self.spec(), bias, start, needs_grad)
        output, weights = self.backend.attend(inputs, need_weights)
        return output, None if weights is None else weights.to(query.dtype)

    def spec(self) -> AttentionSpec:
        """What this attention is made of, in the present mode."""
        dropout = self.dropout if self.training else 0.0
        return AttentionSpec(self.score, self.normalizer, self.mixing, dropout)
