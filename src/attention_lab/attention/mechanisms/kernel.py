"""Kernel attention: with weights φ(q)·φ(k), sums over the keys are computed once."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat
from typing import NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.argument_checks import check_positive
from attention_lab.attention.cache import Cache
from attention_lab.attention.feature_maps import FeatureMap, Features, lowest
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs, repeat_heads
from attention_lab.attention.layer import AttentionLayer, LayerOptions, Projections
from attention_lab.attention.masks import Mask, split_causal
from attention_lab.attention.parts import make_part
from attention_lab.attention.precision import wide, without_autocast


class Past(NamedTuple):
    """Σ φ(k) (v, 1)ᵀ = sums · exp(largest) over the keys so far."""

    sums: Tensor  #: (B, H_kv, 1, F, E_v + 1)
    largest: Tensor | None = None  #: (B, H_kv, 1, 1, 1), if the keys' features have scales


class KernelAttention(AttentionLayer):
    """output = φ(q) Σ φ(k) vᵀ / φ(q) Σ φ(k), linear in the length (Katharopoulos et al. 2020).

    Time and memory are linear if the mask is causal, padding, both or none. With other masks, or if
    weights are needed, the same output is computed from all pairs. Step-by-step decoding caches the
    two sums and, if features have scales, the largest scale; with masks other than causal and
    padding it caches keys and values. Sums are in at least single precision.

    Args:
        embed_dim, kdim, layer: see :class:`AttentionLayer`.
        feature_map: makes φ from head_dim.
        projections: "all", "values" or "none".
        chunk_size: positions that causal attention computes at once; with torch.export, the
            longest sequence that a causal layer takes.

    Raises:
        ValueError: if a value is out of range or sizes do not agree.
    """

    info = MechanismInfo(
        formula="φ(q)·φ(k) / Σ",
        paper="Katharopoulos et al. 2020",
        time="(L + S)·f·d",
        memory="(L + S)·f",
        state="f·d",
        symbols={"f": "num_features"},
        speed_arguments=("chunk_size",),
        implied_weights=True,
    )

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        feature_map: Callable[[int], FeatureMap],
        projections: Projections = "all",
        chunk_size: int = 64,
        **layer: Unpack[LayerOptions],
    ) -> None:
        super().__init__(embed_dim, kdim, projections=projections, **layer)
        check_positive(chunk_size=chunk_size)
        self.chunk_size, sizes = chunk_size, (self.head_dim,)
        self.feature_map: FeatureMap = make_part("feature_map", feature_map, FeatureMap, *sizes)
        formula = f"φ(q)·φ(k) / Σ, φ = {self.feature_map.formula}"
        self.info = replace(self.info, formula=formula, paper=self.feature_map.paper)

    @without_autocast
    def attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        phi_q, phi_k, summed = self._features(inputs)
        structure = None if inputs.start else split_causal(inputs.mask)
        dtype, weights = inputs.query.dtype, None
        if inputs.need_weights or structure is None:
            weights = _weights(phi_q, phi_k, inputs.visible())
        if structure is not None:
            output = _divide(self._sums(phi_q, phi_k, summed, *structure), dtype)
        else:
            assert weights is not None
            output = (weights @ inputs.repeat_heads().value.to(weights.dtype)).to(dtype)
        return output, weights.to(dtype) if inputs.need_weights and weights is not None else None

    @without_autocast
    def attend_next(self, inputs: AttentionInputs, cache: Cache) -> tuple[Tensor, Tensor | None]:
        structure = split_causal(inputs.mask)
        fits_sums = structure is not None and structure[0]
        if "key" in cache.tensors or not (fits_sums or cache.tensors):
            return super().attend_next(inputs, cache)
        if structure is None or not fits_sums:
            raise ValueError(
                f"the cache holds sums over all keys, from which {inputs.mask} cannot hide any; "
                "use this mask from the first step"
            )
        batch, total = inputs.query.shape[0], cache.length + inputs.key.shape[2]
        phi_q, phi_k, summed = self._features(inputs)
        valid = structure[1].dense(batch, 1, 1, total, inputs.device)
        phi_k = _hide(phi_k, valid[..., cache.length :])
        past = Past(**cache.tensors) if cache.tensors else _no_keys(phi_k, summed)
        sums, past = self._causal(phi_q, phi_k, summed, past)
        cache.replace({name: x for name, x in past._asdict().items() if x is not None})
        return _divide(sums, inputs.query.dtype), None

    def _features(self, inputs: AttentionInputs) -> tuple[Tensor, Features, Tensor]:
        """φ(q) (B, H_kv, G, L, F), φ(k) (B, H_kv, 1, S, F) and (v, 1) (B, H_kv, 1, S, E_v + 1).

        G query heads share a key head. The column of ones becomes the denominator.
        """
        query, key, value = wide(inputs.query), wide(inputs.key), wide(inputs.value)
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
        an online softmax (Milakov & Gimelshein 2018). Also returns the past after these keys.
        """
        # Negative if there are more keys than queries: F.pad then cuts them off.
        missing = phi_q.shape[-2] - value.shape[-2]
        keys, value = (F.pad(x, (0, 0, 0, missing)) for x in (phi_k.values, value))
        scale = phi_k.log_scale
        scales: Iterable[Tensor | None] = repeat(None)
        if scale is not None:
            scales = F.pad(scale, (0, 0, 0, missing), value=lowest(scale)).split(
                self.chunk_size, -2
            )
        outputs = []
        chunks = (x.split(self.chunk_size, dim=-2) for x in (phi_q, keys, value))
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


def _weights(phi_q: Tensor, phi_k: Features, visible: Tensor | None) -> Tensor:
    """Weights (B, H, L, S), computed from all pairs."""
    products = (phi_q @ phi_k.values.mT).flatten(1, 2)
    products = products if visible is None else products * visible
    if phi_k.log_scale is not None:
        row = repeat_heads(phi_k.log_scale.squeeze(2), phi_q.shape[2]).mT
        row = row if visible is None else row.masked_fill(~visible, lowest(row))
        products = products * _relative(row, -1)
    return products / _safe(products.sum(-1, keepdim=True))


def _hide(phi_k: Features, valid: Tensor) -> Features:
    """Features of 0, of the lowest scale, where ``valid`` (B, 1, 1, S) is not True."""
    values, scale = phi_k
    valid = valid.mT.unsqueeze(2)
    hidden = None if scale is None else scale.masked_fill(~valid, lowest(scale))
    return Features(values * valid, hidden)


def _no_keys(phi_k: Features, value: Tensor) -> Past:
    """The past before the first key."""
    values, scale = phi_k
    sums = values.mT[..., :0] @ value[..., :0, :]
    if scale is None:
        return Past(sums)
    return Past(sums, scale.new_full((*scale.shape[:-2], 1, 1), lowest(scale)))


def _relative(log_scale: Tensor, dim: int) -> Tensor:
    """Scales, relative to the largest along a dimension, which may be empty."""
    if log_scale.shape[dim] == 0:
        return log_scale
    return (log_scale - log_scale.detach().amax(dim, keepdim=True)).exp()


def _divide(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ / Σ of (B, H_kv, G, L, E_v + 1), as (B, H, L, E_v)."""
    output = sums[..., :-1] / _safe(sums[..., -1:])
    # Not flatten(1, 2), with which torch 2.11 cannot export any length.
    return torch.cat(output.unbind(1), dim=1).to(dtype)


def _safe(total: Tensor) -> Tensor:
    """The denominator, or 1 where no key is visible and the numerator is 0."""
    return torch.where(total > 0, total, 1.0)
