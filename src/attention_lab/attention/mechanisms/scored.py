"""Attention that factors into a score and a normalizer, as most attention does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from attention_lab.argument_checks import check_dropout
from attention_lab.attention.backends.api import choose_backend
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.head_mixing import HeadMixing
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.layer import AttentionLayer, LayerOptions, Projections
from attention_lab.attention.normalizers import Normalizer, Softmax
from attention_lab.attention.parts import make_part
from attention_lab.attention.positions import NoPositions, Positions
from attention_lab.attention.scores import Score


class ScoredAttention(AttentionLayer):
    """output = normalize(score(Q, K) + positions) · V, over the visible keys.

    With the scaled dot product, softmax and no positions this is softmax(QKᵀ/√E) · V (Vaswani et
    al. 2017, eq. 1).

    Args:
        embed_dim, kdim, latent_dim, layer: see :class:`AttentionLayer`.
        score: makes the score from (num_heads, head_dim).
        normalizer: makes the normalizer, which turns logits into weights.
        positions: makes the positions of queries and keys from (num_heads, head_dim).
        talking_heads: whether learned maps mix the heads' logits and weights.
        projections: "all", "values" or "none"; None means what the score needs: "values" if it
            has its own maps of queries and keys.
        dropout: probability of dropping a weight in training.
        backend: "auto" or one of ``BACKENDS``; "auto" takes the fastest that can compute it.

    Raises:
        ValueError: if a value is out of range, sizes do not agree, score and normalizer do
            not fit together, or the backend cannot compute it.
    """

    info = MechanismInfo("normalizer of score", "Vaswani et al. 2017")

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        score: Callable[[int, int], Score],
        normalizer: Callable[[], Normalizer],
        positions: Callable[[int, int], Positions] = NoPositions,
        latent_dim: int | None = None,
        talking_heads: bool = False,
        projections: Projections | None = None,
        dropout: float = 0.0,
        backend: str = "auto",
        **layer: Unpack[LayerOptions],
    ) -> None:
        projections = _projections_for(score) if projections is None else projections
        super().__init__(embed_dim, kdim, latent_dim=latent_dim, projections=projections, **layer)
        self.dropout, sizes = check_dropout(dropout), (self.num_heads, self.head_dim)
        self.score: Score = make_part("score", score, Score, *sizes)
        self.normalizer: Normalizer = make_part("normalizer", normalizer, Normalizer)
        self.positions: Positions = make_part("positions", positions, Positions, *sizes)
        _check_parts(self.score, self.normalizer, self.positions)
        self.mixing = HeadMixing(self.num_heads) if talking_heads else None
        self.backend = choose_backend(backend, self.spec())
        self.info = self._info(grouped_heads=projections == "all")

    def _info(self, grouped_heads: bool) -> MechanismInfo:
        """The data on these parts; the paper is that of the last one that is not the default."""
        score, normalizer, positions, variants = *self.parts, self._variants()
        papers = [score.paper, *variants.values()]
        if not isinstance(normalizer, Softmax):
            papers.append(normalizer.paper)
        info = MechanismInfo(
            formula=", ".join([f"{normalizer.formula} of {score.formula}", *variants]),
            paper=papers[-1],
            time=score.time,
            memory=score.memory,
            state=self._state(),
            symbols={**score.symbols, **({"r": "latent_dim"} if self.caches_latent else {})},
            grouped_heads=grouped_heads,
            distribution=normalizer.sums_to_one and self.mixing is None,
            sparse=normalizer.sparse,
            positional=score.positional or positions.changes_inputs or positions.adds_to_logits,
        )
        return self.backend.describe(info, self.spec())

    def _state(self) -> str:
        if self.caches_latent:
            return "S·r"
        return "S·d" if self.cached_key_map is None else "S·(a + d)"

    @property
    def cached_key_map(self) -> Callable[[Tensor], Tensor] | None:
        # For query heads that share a key, mapped keys would need more memory. Positions in the
        # keys come before the score.
        shares_keys = self.num_kv_heads < self.num_heads
        return None if shares_keys or self.positions.changes_inputs else self.score.cached_key_map

    @property
    def parts(self) -> tuple[Score, Normalizer, Positions]:
        return self.score, self.normalizer, self.positions

    def _variants(self) -> dict[str, str]:
        """Features that the Transformer's heads do not have, with their papers."""
        grouped = self.num_kv_heads < self.num_heads
        found = {
            "one key head": ("Shazeer 2019", grouped and self.num_kv_heads == 1),
            "grouped key heads": ("Ainslie et al. 2023", grouped and self.num_kv_heads > 1),
            "latent keys and values": ("DeepSeek-AI 2024", self.caches_latent),
            "gated": ("Qiu et al. 2025", self.gate_projection is not None),
            "talking heads": ("Shazeer et al. 2020", self.mixing is not None),
        }
        return {name: paper for name, (paper, has) in found.items() if has}

    def check_lengths(self, queries: int, keys: int) -> None:
        self.score.check_lengths(keys)
        self.positions.check_lengths(queries, keys)

    def attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        if self.positions.changes_inputs:
            query, key = self.positions.place(inputs.query, inputs.key, inputs.start)
            inputs = replace(inputs, query=query, key=key)
        output, weights = self.backend.attend(inputs, self.spec())
        return output, None if weights is None else weights.to(inputs.query.dtype)

    def spec(self) -> AttentionSpec:
        """The parts of this attention, in training or in evaluation."""
        return AttentionSpec(
            self.score, self.normalizer, self.mixing, self.dropout_p, self.positions
        )


def _projections_for(score: Callable[[int, int], Score]) -> Projections:
    with torch.device("meta"):  # draws no random numbers, so that the projections draw first
        probe: Score = make_part("score", score, Score, 1, 2)
    return probe.projections


def _check_parts(score: Score, normalizer: Normalizer, positions: Positions) -> None:
    if normalizer.needs_positive and not score.ever_positive:
        raise ValueError(
            f"{type(normalizer).__name__} gives weight to positive logits only, and "
            f"{type(score).__name__} has none: every weight would be 0"
        )
    if positions.changes_inputs and not score.uses_inputs:
        raise ValueError(
            f"{type(score).__name__} uses neither queries nor keys, so that "
            f"{type(positions).__name__} positions in them would change nothing"
        )
