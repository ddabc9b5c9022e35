"""The Transformer encoder with a linear classifier."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_dropout, check_positive
from attention_lab.attention import Mask, NoMask, Padding
from attention_lab.models.base import AttentionFactory, ClassificationNetwork
from attention_lab.models.blocks import SelfAttentionBlock, attention_per_layer
from attention_lab.models.embedding import position_embedding, token_embedding


class EncoderClassifier(ClassificationNetwork):
    """Transformer encoder, pre-norm, with pooling and a linear classifier.

    Args:
        num_classes: number of classes.
        max_length: greatest number of positions, for learned positions only.
        in_features: width of the input vectors; None if the inputs are tokens.
        vocab_size: number of tokens; None if the inputs are vectors.
        self_attention: creates the attention of each layer.
        hybrid: mechanisms by name that the layers cycle through, instead of ``self_attention``.
        d_model: width of the residual stream.
        num_layers: number of layers.
        dim_feedforward: width of the feed-forward network; None means 4 · d_model, 0 none.
        positions: position embedding: "sinusoidal", "learned" or "none".
        pooling: input of the classifier: the "mean" over unpadded positions, or the "first".
        dropout: probability, on embeddings and on the output of each sublayer.
        padding_idx: the id of the padding token.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        max_length: int,
        in_features: int | None = None,
        vocab_size: int | None = None,
        *,
        self_attention: AttentionFactory,
        hybrid: Mapping[str, AttentionFactory] | None = None,
        d_model: int = 128,
        num_layers: int = 2,
        dim_feedforward: int | None = None,
        positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal",
        pooling: Literal["mean", "first"] = "mean",
        dropout: float = 0.1,
        padding_idx: int = 0,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, num_layers=num_layers)
        check_dropout(dropout)
        dim_feedforward = 4 * d_model if dim_feedforward is None else dim_feedforward
        if pooling not in ("mean", "first"):
            raise ValueError(f"pooling must be mean or first, got {pooling!r}")
        if (in_features is None) == (vocab_size is None):
            raise ValueError("give either in_features, for vectors, or vocab_size, for tokens")
        self.embedding: nn.Module = (
            nn.Linear(in_features, d_model)
            if in_features is not None
            else token_embedding(vocab_size or 0, d_model, padding_idx)
        )
        self.embedding_scale = d_model**0.5 if vocab_size is not None else 1.0
        self.positions = position_embedding(positions, d_model, max_length, std=2**-0.5)
        self.pooling, self.padding_idx = pooling, padding_idx
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            SelfAttentionBlock(d_model, attention(d_model, d_model), dim_feedforward, dropout)
            for attention in attention_per_layer(self_attention, hybrid, num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.classifier = nn.Linear(d_model, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        real = (
            (inputs != self.padding_idx) if inputs.ndim == 2 else inputs.new_ones(inputs.shape[:2])
        )
        mask: Mask = Padding(real) if inputs.ndim == 2 else NoMask()
        x = self.dropout(self.positions(self.embedding(inputs) * self.embedding_scale))
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        if self.pooling == "first":
            return self.classifier(x[:, 0])
        shares = real.to(x.dtype) / real.sum(1, keepdim=True)
        return self.classifier(torch.einsum("bl,blw->bw", shares, x))

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {
            f"layers.{number}.self_attention": ("input", "input")
            for number in range(len(self.layers))
        }
