"""Kernel attention: weights are dot products of features, so the sum over keys comes first."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention.backends import repeat_heads
from attention_lab.attention.cache import Cache
from attention_lab.attention.capabilities import Capabilities
from attention_lab.attention.checks import check_positive
from attention_lab.attention.layer import AttentionLayer, Projections
from attention_lab.attention.masks import Mask, split_causal
from attention_lab.attention.precision import wide, without_autocast


class FeatureMap(nn.Module, ABC):
    """Non-negative features of one head's queries and keys.

    Args:
        head_dim: width of one head, E.
    """

    formula: ClassVar[str]
    paper: ClassVar[str]

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        check_positive(head_dim=head_dim)
        self.head_dim = head_dim

    @abstractmethod
    def forward(self, x: Tensor, is_query: bool) -> Tensor:
        """Features (B, H, L, F) of (B, H, L, E).

        Those of a query may be scaled by any positive number, which cancels; those of a key not.
        """


class EluPlusOne(FeatureMap):
    """φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, eq. 7)."""

    formula = "elu(x) + 1"
    paper = "Katharopoulos et al. 2020"

    def forward(self, x: Tensor, is_query: bool) -> Tensor:
        if is_query:  # far below 0 every feature would vanish; the factor e^−max cancels
            x = x - x.amax(-1, keepdim=True).detach().clamp(max=0)
        return F.elu(x) + 1


class PositiveRandomFeatures(FeatureMap):
    """FAVOR+: φ(q)·φ(k) is exp(q·k / √E) on average (Choromanski et al. 2021, lemma 1).

    The random directions are orthogonal in blocks of E (ibid., §2.4), drawn once at initialization
    and kept in the state. The features of long keys underflow, in single precision from a norm of
    13·E^¼ (e^−88) or more; a query that sees no key with features left gets zeros.

    Args:
        head_dim: width of one head.
        features: number of random directions; the error falls with their square root.

    Raises:
        ValueError: if a size is below 1.
    """

    formula = "exp(ωx − |x|²/2)"
    paper = "Choromanski et al. 2021"

    def __init__(self, head_dim: int, features: int = 128) -> None:
        super().__init__(head_dim)
        check_positive(features=features)
        blocks = [_random_rotation(head_dim) for _ in range(-(-features // head_dim))]
        norms = torch.randn(features, head_dim).norm(dim=1, keepdim=True)
        self.register_buffer("directions", torch.cat(blocks)[:features] * norms)
        self.directions: Tensor

    def forward(self, x: Tensor, is_query: bool) -> Tensor:
        x = x * self.head_dim**-0.25
        exponent = x @ self.directions.to(x.dtype).mT - x.square().sum(-1, keepdim=True) / 2
        if is_query:  # cannot overflow, and cancels
            exponent = exponent - exponent.amax(-1, keepdim=True).detach()
        return exponent.exp() / len(self.directions) ** 0.5


class KernelAttention(AttentionLayer):
    """output = φ(q) Σ φ(k) vᵀ / φ(q) Σ φ(k), linear in the length (Katharopoulos et al. 2020).

    Linear where the mask is causal, padding, both or none; under any other mask, and where weights
    are asked for, the same numbers are computed from all pairs. Step-by-step decoding keeps the two
    sums only. Sums are never in half precision.

    Args:
        query_dim: width of the queries, and of the output.
        memory_dim: width of what is attended to; None means ``query_dim``.
        feature_map: makes φ from head_dim.
        width: width of all heads together; None means ``query_dim``.
        heads: number of query heads.
        kv_heads: number of key and value heads; None means ``heads``.
        projections: "all", "values" or "none".
        bias: whether the projections have one.
        gate: whether a sigmoid of the query gates the output.
        mask: the mechanism's own mask, on top of the one that each call brings.
        chunk: positions that the causal form takes at once.

    Raises:
        ValueError: if a value is out of range or sizes do not agree.
    """

    def __init__(
        self,
        query_dim: int,
        memory_dim: int | None = None,
        *,
        feature_map: Callable[[int], FeatureMap],
        width: int | None = None,
        heads: int = 1,
        kv_heads: int | None = None,
        projections: Projections = "all",
        bias: bool = False,
        gate: bool = False,
        mask: Mask | None = None,
        chunk: int = 64,
    ) -> None:
        super().__init__(
            query_dim,
            memory_dim,
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            projections=projections,
            bias=bias,
            gate=gate,
            mask=mask,
        )
        check_positive(chunk=chunk)
        self.feature_map = feature_map(self.head_dim)
        self.chunk = chunk

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            formula=f"φ(q)·φ(k) / Σ, φ = {self.feature_map.formula}",
            paper=self.feature_map.paper,
            time="(L + S)·f·d",
            memory="(L + S)·f",
            state="f·d",
        )

    @without_autocast
    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | None,
        need_weights: bool,
        start: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        keys = key.shape[2]
        phi_q, phi_k, summed = self._features(query, key, value)
        structure = None if need_weights or start else split_causal(mask)
        if structure is None:
            products = (phi_q @ phi_k.mT).flatten(1, 2)
            if mask is not None:
                size = (len(query), query.shape[1], query.shape[2], keys)
                products = products * mask.dense(*size, query.device, start)
            weights = products / _safe(products.sum(-1, keepdim=True))
            output = weights @ repeat_heads(value, phi_q.shape[2]).to(weights.dtype)
            given = weights.to(query.dtype) if need_weights else None
            return output.to(query.dtype), given
        causal, rest = structure
        phi_k = phi_k * rest.dense(len(query), 1, 1, keys, query.device).mT.unsqueeze(2)
        sums = self._causal(phi_q, phi_k, summed) if causal else phi_q @ (phi_k.mT @ summed)
        return _divide(sums, query.dtype), None

    @without_autocast
    def attend_next(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask,
        need_weights: bool,
        cache: Cache,
    ) -> tuple[Tensor, Tensor | None]:
        structure = split_causal(mask)
        if structure is None or not structure[0]:
            raise ValueError(
                "linear attention keeps sums, not keys: step by step it needs a causal mask "
                f"(and padding), and cannot use {mask}"
            )
        seen = cache.length + key.shape[2]
        phi_q, phi_k, summed = self._features(query, key, value)
        valid = structure[1].dense(len(query), 1, 1, seen, query.device)
        phi_k = phi_k * valid[..., cache.length :].mT.unsqueeze(2)
        sums, total = self._causal(phi_q, phi_k, summed), phi_k.mT @ summed
        if cache.tensors:
            past = cache.tensors["sums"]
            sums, total = sums + phi_q @ past, total + past
        cache.replace({"sums": total})
        return _divide(sums, query.dtype), None

    def _features(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """φ(q) (B, H_kv, G, L, F), φ(k) (B, H_kv, 1, S, F) and (v, 1) (B, H_kv, 1, S, E_v + 1).

        G query heads share a key head. The column of ones becomes the denominator.
        """
        query, key, value = wide(query), wide(key), wide(value)
        phi_q = self.feature_map(query, is_query=True).unflatten(1, (key.shape[1], -1))
        phi_k = self.feature_map(key, is_query=False).unsqueeze(2)
        return phi_q, phi_k, F.pad(value, (0, 1), value=1.0).unsqueeze(2)

    def _causal(self, phi_q: Tensor, phi_k: Tensor, value: Tensor) -> Tensor:
        """Σ_{j ≤ i} (φ(q_i)·φ(k_j)) v_j, chunk by chunk: pairs within, sums from before."""
        queries = phi_q.shape[-2]
        missing = max(0, queries - phi_k.shape[-2])
        phi_k, value = (F.pad(x, (0, 0, 0, missing))[..., :queries, :] for x in (phi_k, value))
        past = phi_k.mT[..., :0] @ value[..., :0, :]  # zeros (B, H_kv, 1, F, E_v + 1)
        outputs = []
        for q, k, v in zip(
            *(x.split(self.chunk, dim=-2) for x in (phi_q, phi_k, value)), strict=True
        ):
            outputs.append((q @ k.mT).tril() @ v + q @ past)
            past = past + k.mT @ v
        return torch.cat(outputs, dim=-2)


def _divide(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ / Σ of (B, H_kv, G, L, E_v + 1), as (B, H, L, E_v)."""
    return (sums[..., :-1] / _safe(sums[..., -1:])).flatten(1, 2).to(dtype)


def _random_rotation(width: int) -> Tensor:
    """A uniformly distributed orthogonal matrix (Mezzadri 2007): the signs of R must be undone."""
    q, r = torch.linalg.qr(torch.randn(width, width))
    return q * r.diagonal().sign()


def _safe(total: Tensor) -> Tensor:
    """A denominator: 1 where nothing was seen, and the numerator is 0."""
    return torch.where(total > 0, total, 1.0)
