"""The Transformer encoder–decoder, with layer normalization before each sublayer."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from attention_lab.attention import AttentionLayer, Cache, Causal, Mask, Padding
from attention_lab.attention.validation import check_dropout, check_positive
from attention_lab.models.blocks import (
    SelfAttentionBlock,
    feed_forward_block,
    in_turn,
    require_causal,
)
from attention_lab.models.embedding import NoPositions, SinusoidalPositions, token_embedding
from attention_lab.models.protocol import (
    AttentionFactory,
    Encoded,
    EncoderDecoderNetwork,
    Past,
    check_cross_attention,
)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and a feed-forward network, pre-normalized."""

    def __init__(
        self,
        d_model: int,
        dim_feedforward: int,
        self_attention: AttentionLayer,
        cross_attention: AttentionLayer,
        dropout: float,
    ) -> None:
        super().__init__()
        check_cross_attention(cross_attention)
        self.self_norm = nn.LayerNorm(d_model)
        self.self_attention = require_causal(self_attention, "+attention@model.self_attention")
        self.cross_norm = nn.LayerNorm(d_model)
        self.cross_attention = cross_attention
        self.feed_forward = feed_forward_block(d_model, dim_feedforward, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        visible: Mask,
        seen: Cache | None = None,
        source: Cache | None = None,
    ) -> Tensor:
        """(B, T, d_model) → (B, T, d_model); step by step, ``source`` stands for the memory."""
        own = self.self_attention(self.self_norm(x), mask=Causal(), cache=seen).output
        x = x + self.dropout(own)
        found = self.cross_attention(self.cross_norm(x), memory, visible, cache=source).output
        return self.feed_forward(x + self.dropout(found))


class EncoderDecoder(EncoderDecoderNetwork):
    """Transformer encoder–decoder, pre-norm (Vaswani et al. 2017, §3; Xiong et al. 2020).

    Args:
        source_vocabulary: number of source tokens.
        target_vocabulary: number of target tokens.
        cross_attention: makes each decoder layer's attention to the source.
        self_attention: makes the self-attention of every layer of both stacks; None means the
            same mechanism as in cross-attention.
        hybrid: mechanisms by any names, which the layers of either stack use in turn for
            self-attention, in place of ``self_attention``.
        d_model: of the residual stream.
        num_encoder_layers: number of encoder layers.
        num_decoder_layers: number of decoder layers.
        dim_feedforward: of the hidden layer; None means 4 · d_model, 0 no feed-forward network.
        dropout: probability, on embeddings and on every sublayer's output.
        positions: what is added to the embeddings: "sinusoidal" or "none", where attention has
            positions of its own.
        padding: the token id that marks absent positions.

    Raises:
        ValueError: if a value is out of range, or a mechanism cannot do what its place asks.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        cross_attention: AttentionFactory,
        self_attention: AttentionFactory | None = None,
        hybrid: Mapping[str, AttentionFactory] | None = None,
        d_model: int = 128,
        num_encoder_layers: int = 2,
        num_decoder_layers: int = 2,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        positions: Literal["sinusoidal", "none"] = "sinusoidal",
        padding: int = 0,
    ) -> None:
        super().__init__()
        dim_feedforward = 4 * d_model if dim_feedforward is None else dim_feedforward
        check_positive(
            d_model=d_model,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
        )
        check_dropout(dropout)
        self_attention = cross_attention if self_attention is None else self_attention
        self.padding = padding
        self.source_embedding = token_embedding(source_vocabulary, d_model, padding)
        self.target_embedding = token_embedding(target_vocabulary, d_model, padding)
        if positions not in ("sinusoidal", "none"):
            raise ValueError(f"positions must be sinusoidal or none, got {positions!r}")
        self.positions = (
            SinusoidalPositions(d_model) if positions == "sinusoidal" else NoPositions()
        )
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(
            SelfAttentionBlock(d_model, attention(d_model, d_model), dim_feedforward, dropout)
            for attention in in_turn(self_attention, hybrid, num_encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(d_model)
        self.decoder = nn.ModuleList(
            DecoderLayer(
                d_model,
                dim_feedforward,
                attention(d_model, d_model),
                cross_attention(d_model, d_model),
                dropout,
            )
            for attention in in_turn(self_attention, hybrid, num_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, target_vocabulary)
        self.embedding_scale = d_model**0.5

    def encode(self, source: Tensor) -> Encoded:
        valid = source != self.padding
        x = self._embed(self.source_embedding, source)
        for layer in self.encoder:
            x = layer(x, Padding(valid))
        return Encoded(self.encoder_norm(x), valid, summary=None)

    def decode(self, target: Tensor, encoded: Encoded) -> Tensor:
        x = self._embed(self.target_embedding, target)
        for layer in self.decoder:
            x = layer(x, encoded.memory, Padding(encoded.valid))
        return self.lm_head(self.decoder_norm(x))

    def read(self, source: Tensor) -> Past:
        encoded = self.encode(source)
        past = {"source": Cache({"valid": encoded.valid})}
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, DecoderLayer)
            past[f"decoder.{number}.self"] = Cache()
            past[f"decoder.{number}.cross"] = layer.cross_attention.remember(encoded.memory)
        return past

    def next(self, tokens: Tensor, past: Past) -> Tensor:
        x = self._embed(self.target_embedding, tokens, past["decoder.0.self"].length)
        visible = Padding(past["source"].tensors["valid"])
        for number, layer in enumerate(self.decoder):
            seen, source = past[f"decoder.{number}.self"], past[f"decoder.{number}.cross"]
            x = layer(x, None, visible, seen, source)
        return self.lm_head(self.decoder_norm(x[:, -1]))

    def _embed(self, embedding: nn.Embedding, tokens: Tensor, start: int = 0) -> Tensor:
        return self.dropout(self.positions(embedding(tokens) * self.embedding_scale, start))

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        axes = {}
        for index in range(len(self.encoder)):
            axes[f"encoder.{index}.self_attention"] = ("source", "source")
        for index in range(len(self.decoder)):
            axes[f"decoder.{index}.self_attention"] = ("target", "target")
            axes[f"decoder.{index}.cross_attention"] = ("target", "source")
        return axes
