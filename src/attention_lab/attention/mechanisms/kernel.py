"""Kernel attention: weights are dot products of features, so the sum over keys comes first."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention.backends import repeat_heads
from attention_lab.attention.cache import Cache
from attention_lab.attention.capabilities import Capabilities
from attention_lab.attention.layer import AttentionLayer, Projections
from attention_lab.attention.masks import Mask, NoMask, split_causal
from attention_lab.attention.precision import wide, without_autocast
from attention_lab.attention.validation import check_positive, make_part


class Features(NamedTuple):
    """φ(x) = values · exp(log_scale), which alone could under- or overflow."""

    values: Tensor  #: (B, H, L, F)
    log_scale: Tensor | None = None  #: (B, H, L, 1); None means 0


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
    def forward(self, x: Tensor, is_query: bool) -> Features:
        """Features of (B, H, L, E).

        Those of a query may be scaled by any positive number, which cancels: its ``log_scale`` is
        not looked at. That of keys is looked at if it is given.
        """


class EluPlusOne(FeatureMap):
    """φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, eq. 7)."""

    formula = "elu(x) + 1"
    paper = "Katharopoulos et al. 2020"

    def forward(self, x: Tensor, is_query: bool) -> Features:
        above = x.relu()
        below = x - above  # min(x, 0), whose gradient costs less than that of clamp
        if is_query:  # far below 0 every feature would vanish; the factor e^−max cancels
            below = below - below.amax(-1, keepdim=True).detach()
        # Not elu: the largest is now 0, where elu's second derivative is that of its upper branch.
        return Features(above + below.exp())


class PositiveRandomFeatures(FeatureMap):
    """FAVOR+: φ(q)·φ(k) is exp(q·k / √E) on average (Choromanski et al. 2021, lemma 1).

    The random directions are orthogonal in blocks of E (ibid., §2.4), drawn once at initialization
    and kept in the state. Features are relative to each vector's largest, so that neither long keys
    nor long queries vanish. Only where both are long, in single precision from about 14·E^¼, and
    opposite, they may have no feature left in common: a query that sees such keys alone gets zeros.

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

    def forward(self, x: Tensor, is_query: bool) -> Features:
        x = x * self.head_dim**-0.25
        exponent = x @ self.directions.to(x.dtype).mT
        largest = exponent.amax(-1, keepdim=True).detach()
        if is_query:
            return Features(self._exp(exponent - largest))
        half = (x.square().sum(-1, keepdim=True) / 2).clamp(max=-_lowest(x) / 4)
        # The scale is a constant: |x|²/2 − (|x|²/2) gives the features its gradient, and no number.
        scale = largest - half.detach()
        return Features(self._exp(exponent - (largest + (half - half.detach()))), scale)

    def _exp(self, exponent: Tensor) -> Tensor:
        return exponent.exp() / len(self.directions) ** 0.5


class Past(NamedTuple):
    """Σ φ(k) (v, 1)ᵀ = sums · exp(largest) over the keys so far."""

    sums: Tensor  #: (B, H_kv, 1, F, E_v + 1)
    largest: Tensor | None = None  #: (B, H_kv, 1, 1, 1), if the keys' features have scales


class KernelAttention(AttentionLayer):
    """output = φ(q) Σ φ(k) vᵀ / φ(q) Σ φ(k), linear in the length (Katharopoulos et al. 2020).

    Linear where the mask is causal, padding, both or none; under any other mask, and where weights
    are asked for, the same numbers are computed from all pairs. Step-by-step decoding keeps the two
    sums, and the largest scale if features have scales; under any other mask than a causal one,
    keys and values. Sums are never in half precision.

    Args:
        embed_dim: width of the queries, and of the output.
        kdim: width of what is attended to; None means ``embed_dim``.
        feature_map: makes φ from head_dim.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; None means ``num_heads``.
        head_dim: size of one head; None means ``embed_dim / num_heads``.
        projections: "all", "values" or "none".
        bias: whether the projections have one.
        gate: whether a sigmoid of the query gates the output.
        mask: the mechanism's own mask, on top of the one that each call brings.
        chunk: positions that the causal form takes at once; with torch.export, the longest
            sequence that a causal layer takes.

    Raises:
        ValueError: if a value is out of range or sizes do not agree.
    """

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        feature_map: Callable[[int], FeatureMap],
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        projections: Projections = "all",
        bias: bool = False,
        gate: bool = False,
        mask: Mask | None = None,
        chunk: int = 64,
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
        check_positive(chunk=chunk)
        self.feature_map: FeatureMap = make_part(
            "feature_map", feature_map, FeatureMap, self.head_dim
        )
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
        phi_q, phi_k, summed = self._features(query, key, value)
        structure = None if start else split_causal(mask)
        weights = None
        if need_weights or structure is None:
            size = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
            visible = (NoMask() if mask is None else mask).dense(*size, query.device, start)
            weights = _weights(phi_q, phi_k, visible)
        if structure is not None:
            output = _divide(self._sums(phi_q, phi_k, summed, *structure), query.dtype)
        else:
            assert weights is not None
            output = (weights @ repeat_heads(value, phi_q.shape[2]).to(weights.dtype)).to(
                query.dtype
            )
        return output, weights.to(query.dtype) if need_weights and weights is not None else None

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
        fits_sums = structure is not None and structure[0]
        if "key" in cache.tensors or not (fits_sums or cache.tensors):
            return super().attend_next(query, key, value, mask, need_weights, cache)
        if structure is None or not fits_sums:
            raise ValueError(
                f"the cache holds sums over all keys, which cannot forget what {mask} hides; give "
                "this mask from the beginning"
            )
        seen = cache.length + key.shape[2]
        phi_q, phi_k, summed = self._features(query, key, value)
        valid = structure[1].dense(query.shape[0], 1, 1, seen, query.device)
        phi_k = _hide(phi_k, valid[..., cache.length :])
        past = Past(**cache.tensors) if cache.tensors else _no_keys(phi_k, summed)
        sums, past = self._causal(phi_q, phi_k, summed, past)
        cache.replace({name: x for name, x in past._asdict().items() if x is not None})
        return _divide(sums, query.dtype), None

    def _features(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Features, Tensor]:
        """φ(q) (B, H_kv, G, L, F), φ(k) (B, H_kv, 1, S, F) and (v, 1) (B, H_kv, 1, S, E_v + 1).

        G query heads share a key head. The column of ones becomes the denominator.
        """
        query, key, value = wide(query), wide(key), wide(value)
        phi_q = self.feature_map(query, is_query=True).values.unflatten(1, (key.shape[1], -1))
        values, scale = self.feature_map(key, is_query=False)
        phi_k = Features(values.unsqueeze(2), None if scale is None else scale.unsqueeze(2))
        return phi_q, phi_k, F.pad(value, (0, 1), value=1.0).unsqueeze(2)

    def _sums(
        self, phi_q: Tensor, phi_k: Features, value: Tensor, causal: bool, rest: Mask
    ) -> Tensor:
        """Σ (φ(q)·φ(k)) v over the keys visible to each query, in linear time."""
        batch, *_, keys, _ = phi_k.values.shape
        phi_k = _hide(phi_k, rest.dense(batch, 1, 1, keys, value.device))
        if causal:
            return self._causal(phi_q, phi_k, value, _no_keys(phi_k, value))[0]
        values, scale = phi_k
        values = values if scale is None else values * _relative(scale, -2)
        return phi_q @ (values.mT @ value)

    def _causal(
        self, phi_q: Tensor, phi_k: Features, value: Tensor, past: Past
    ) -> tuple[Tensor, Past]:
        """Σ_{j ≤ i} (φ(q_i)·φ(k_j)) v_j, chunk by chunk: pairs within, sums from before.

        Row i is relative to the largest scale of its keys, and the past to that of its own, as in
        an online softmax (Milakov & Gimelshein 2018). Returns the past that they all have become.
        """
        missing = phi_q.shape[-2] - value.shape[-2]  # or too many
        keys, value = (F.pad(x, (0, 0, 0, missing)) for x in (phi_k.values, value))
        scale = phi_k.log_scale
        scales: Iterable[Tensor | None] = repeat(None)
        if scale is not None:
            scales = F.pad(scale, (0, 0, 0, missing), value=_lowest(scale)).split(self.chunk, -2)
        outputs = []
        chunks = (x.split(self.chunk, dim=-2) for x in (phi_q, keys, value))
        for q, k, v, scale in zip(*chunks, scales, strict=False):
            sums, largest = past
            pairs, before = (q @ k.mT).tril(), q @ sums
            if scale is not None and largest is not None:
                running = torch.cat([largest, scale.detach()], dim=-2).cummax(dim=-2).values
                now, last = running[..., 1:, :], running[..., -1:, :]
                pairs = pairs * (scale.mT - now).clamp(max=0).exp()  # no ∞ above the diagonal
                before = before * (largest - now).exp()
                k, sums, largest = k * (scale - last).exp(), sums * (largest - last).exp(), last
            outputs.append(pairs @ v + before)
            past = Past(sums + k.mT @ v, largest)
        return torch.cat(outputs, dim=-2), past


def _weights(phi_q: Tensor, phi_k: Features, visible: Tensor) -> Tensor:
    """Weights (B, H, L, S), computed from all pairs."""
    products = (phi_q @ phi_k.values.mT).flatten(1, 2) * visible
    if phi_k.log_scale is not None:
        row = repeat_heads(phi_k.log_scale.squeeze(2), phi_q.shape[2]).mT
        products = products * _relative(row.masked_fill(~visible, _lowest(row)), -1)
    return products / _safe(products.sum(-1, keepdim=True))


def _hide(phi_k: Features, valid: Tensor) -> Features:
    """Features of 0, of the lowest scale, where ``valid`` (B, 1, 1, S) is not True."""
    values, scale = phi_k
    valid = valid.mT.unsqueeze(2)
    hidden = None if scale is None else scale.masked_fill(~valid, _lowest(scale))
    return Features(values * valid, hidden)


def _no_keys(phi_k: Features, value: Tensor) -> Past:
    """The past before the first key."""
    values, scale = phi_k
    sums = values.mT[..., :0] @ value[..., :0, :]
    if scale is None:
        return Past(sums)
    return Past(sums, scale.new_full((*scale.shape[:-2], 1, 1), _lowest(scale)))


def _relative(log_scale: Tensor, dim: int) -> Tensor:
    """Scales, relative to the largest along a dimension, which may be empty."""
    if log_scale.shape[dim] == 0:
        return log_scale
    return (log_scale - log_scale.detach().amax(dim, keepdim=True)).exp()


def _lowest(x: Tensor) -> float:
    """A logarithm of 0 that can be subtracted from itself."""
    return torch.finfo(x.dtype).min


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
