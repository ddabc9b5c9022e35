"""Linformer: keys and values are projected along the sequence, to a fixed length."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention.backends import repeat_heads
from attention_lab.attention.capabilities import Capabilities
from attention_lab.attention.layer import AttentionLayer
from attention_lab.attention.masks import Mask
from attention_lab.attention.validation import check_dropout, check_positive


class LinformerAttention(AttentionLayer):
    """softmax(q (P k)ᵀ / √E) (R v), P and R (K × S) learned (Wang et al. 2020, eq. 7).

    Padding is set to zero before it is projected. Every slot mixes all keys, so it cannot be causal
    and has no weights over the keys. P and R are shared by the heads (ibid., §4, "headwise").

    Args:
        embed_dim: width of the queries, and of the output.
        kdim: width of what is attended to; None means ``embed_dim``.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; None means ``num_heads``.
        head_dim: size of one head; None means ``embed_dim / num_heads``.
        bias: whether the projections have one.
        gate: whether a sigmoid of the query gates the output.
        mask: the mechanism's own mask, on top of the one that each call brings.
        slots: K, the length that keys and values are projected to.
        max_length: largest S.
        dropout: probability of dropping a weight in training.

    Raises:
        ValueError: if a value is out of range or sizes do not agree, or (when called) if there are
            more keys than ``max_length`` or the mask is not one of padding.
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
        slots: int = 64,
        max_length: int = 512,
        dropout: float = 0.0,
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
        check_positive(slots=slots, max_length=max_length)
        check_dropout(dropout)
        _check_mask(self.mask)
        self.dropout = dropout
        self.key_slots = nn.Parameter(torch.randn(slots, max_length) * slots**-0.5)
        self.value_slots = nn.Parameter(torch.randn(slots, max_length) * slots**-0.5)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            formula="softmax(q·(P k) / √d) (R v)",
            paper="Wang et al. 2020",
            time="(L + S)·K·d",
            memory="(L + S)·K",
            state="",
            any_mask=False,
            weights=False,
            positional=True,
            double_backward=False,  # PyTorch's fused kernel has none
        )

    def check_lengths(self, queries: int, keys: int) -> None:
        longest = self.key_slots.shape[1]
        if keys > longest:
            raise ValueError(f"{keys} keys are more than max_length={longest}")

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
        self.check_lengths(query.shape[2], keys)
        groups = query.shape[1] // key.shape[1]
        key, value = repeat_heads(key, groups), repeat_heads(value, groups)
        if mask is not None:
            _check_mask(mask)
            batch, num_heads = query.shape[:2]
            valid = mask.dense(batch, num_heads, 1, keys, query.device).mT
            key, value = key.masked_fill(~valid, 0.0), value.masked_fill(~valid, 0.0)
        key, value = self.key_slots[:, :keys] @ key, self.value_slots[:, :keys] @ value
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout), None


def _check_mask(mask: Mask) -> None:
    if mask.depends_on_query:
        raise ValueError(
            "Linformer mixes all keys before any query looks at them: it can hide padding, but "
            f"cannot use {mask}"
        )
