"""Linformer: keys and values are projected along the sequence, to a fixed length."""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.argument_checks import check_dropout, check_positive
from attention_lab.attention.backends.double_backward import allow_double_backward
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.layer import AttentionLayer, LayerOptions


class Linformer(AttentionLayer):
    """softmax(q (P k)ᵀ / √E) (R v), P and R (K × S) learned (Wang et al. 2020, eq. 7).

    Padding is set to zero before it is projected. Each projected key mixes all keys, so the
    mechanism cannot be causal and has no weights over the keys. Heads share P and R (ibid., §4).

    Args:
        embed_dim, kdim, layer: see :class:`AttentionLayer`.
        projected_length: K, the length to which keys and values are projected.
        max_length: largest S.
        dropout: probability of dropping a weight in training.

    Raises:
        ValueError: if a value is out of range or sizes do not agree, or (when called) if there are
            more keys than ``max_length`` or the mask is not one of padding.
    """

    info = MechanismInfo(
        formula="softmax(q·(P k) / √d) (R v)",
        paper="Wang et al. 2020",
        time="(L + S)·K·d",
        memory="(L + S)·K",
        symbols={"K": "projected_length"},
        causal=False,
        weights=False,
        positional=True,
        double_backward_on=("cpu",),  # PyTorch's fused kernels have none
    )

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        projected_length: int = 64,
        max_length: int = 512,
        dropout: float = 0.0,
        **layer: Unpack[LayerOptions],
    ) -> None:
        super().__init__(embed_dim, kdim, **layer)
        check_positive(projected_length=projected_length, max_length=max_length)
        self.dropout = check_dropout(dropout)
        size, std = (projected_length, max_length), projected_length**-0.5
        self.key_map = nn.Parameter(torch.randn(size) * std)
        self.value_map = nn.Parameter(torch.randn(size) * std)

    def check_lengths(self, queries: int, keys: int) -> None:
        longest = self.key_map.shape[1]
        if keys > longest:
            raise ValueError(f"{keys} keys are more than max_length={longest}")

    def attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        inputs, keys = inputs.repeat_heads(), inputs.key.shape[2]
        self.check_lengths(inputs.query.shape[2], keys)
        hidden = ~inputs.key_mask()
        key = self.key_map[:, :keys] @ inputs.key.masked_fill(hidden, 0.0)
        value = self.value_map[:, :keys] @ inputs.value.masked_fill(hidden, 0.0)
        query, dropout_p = inputs.query, self.dropout_p
        output = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)
        allow_double_backward(output, query, key, value, self.head_dim**-0.5)
        return output, None
