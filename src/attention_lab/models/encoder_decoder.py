"""The Transformer encoder–decoder, with layer normalization before each sublayer."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from attention_lab.argument_checks import check_dropout, check_positive
from attention_lab.attention import AttentionLayer, Cache, Causal, Documents, Mask, Padding
from attention_lab.models.base import (
    AttentionFactory,
    Caches,
    Encoded,
    EncoderDecoderNetwork,
    check_cross_attention,
)
from attention_lab.models.blocks import (
    CheckpointedLayer,
    SelfAttentionBlock,
    attention_per_layer,
    document_ids,
    feed_forward_block,
    require_causal,
)
from attention_lab.models.embedding import NoPositions, SinusoidalPositions, token_embedding


class DecoderLayer(CheckpointedLayer):
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
        target_mask: Mask,
        memory: Tensor | None,
        source_mask: Mask,
        target_cache: Cache | None = None,
        source_cache: Cache | None = None,
    ) -> Tensor:
        """(B, T, d_model) → (B, T, d_model); ``memory`` is None if ``source_cache`` holds it."""
        attended = self.self_attention(
            self.self_norm(x), mask=target_mask, cache=target_cache
        ).output
        x = x + self.dropout(attended)
        attended = self.cross_attention(
            self.cross_norm(x), memory, source_mask, cache=source_cache
        ).output
        return self.feed_forward(x + self.dropout(attended))


class EncoderDecoder(EncoderDecoderNetwork):
    """Transformer encoder–decoder, pre-norm (Vaswani et al. 2017, §3; Xiong et al. 2020).

    Args:
        source_vocab_size: number of source tokens.
        target_vocab_size: number of target tokens.
        cross_attention: creates the cross-attention of each decoder layer.
        self_attention: creates the self-attention of each layer; None means ``cross_attention``.
        hybrid: mechanisms by name that the layers of each stack cycle through for
            self-attention, instead of ``self_attention``.
        d_model: width of the residual stream.
        num_encoder_layers: number of encoder layers.
        num_decoder_layers: number of decoder layers.
        dim_feedforward: width of the feed-forward network; None means 4 · d_model, 0 none.
        dropout: probability, on embeddings and on the output of each sublayer.
        positions: position embedding: "sinusoidal" or "none".
        padding_idx: the id of the padding token.

    Raises:
        ValueError: if a value is out of range, if the self-attention cannot be causal, or if the
            cross-attention cannot attend to another sequence.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
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
        padding_idx: int = 0,
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
        self.padding_idx = padding_idx
        self.source_embedding = token_embedding(source_vocab_size, d_model, padding_idx)
        self.target_embedding = token_embedding(target_vocab_size, d_model, padding_idx)
        if positions not in ("sinusoidal", "none"):
            raise ValueError(f"positions must be sinusoidal or none, got {positions!r}")
        self.positions = (
            SinusoidalPositions(d_model) if positions == "sinusoidal" else NoPositions()
        )
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(
            SelfAttentionBlock(d_model, attention(d_model, d_model), dim_feedforward, dropout)
            for attention in attention_per_layer(self_attention, hybrid, num_encoder_layers)
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
            for attention in attention_per_layer(self_attention, hybrid, num_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, target_vocab_size)
        self.embedding_scale = d_model**0.5

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_positions: Tensor | None = None,
        target_positions: Tensor | None = None,
    ) -> Tensor:
        return self.decode(target, self.encode(source, source_positions), target_positions)

    def encode(self, source: Tensor, positions: Tensor | None = None) -> Encoded:
        valid = source != self.padding_idx
        documents = None if positions is None else document_ids(positions)
        mask = Padding(valid) if documents is None else Documents(documents)
        x = self._embed(self.source_embedding, source, positions=positions)
        for layer in self.encoder:
            x = layer(x, mask)
        return Encoded(self.encoder_norm(x), valid, summary=None, documents=documents)

    def decode(self, target: Tensor, encoded: Encoded, positions: Tensor | None = None) -> Tensor:
        target_mask: Mask = Causal()
        source_mask: Mask = Padding(encoded.valid)
        if positions is not None:
            assert encoded.documents is not None
            documents = document_ids(positions)
            target_mask &= Documents(documents)
            source_mask = Documents(encoded.documents, documents)
        x = self._embed(self.target_embedding, target, positions=positions)
        for layer in self.decoder:
            x = layer(x, target_mask, encoded.memory, source_mask)
        return self.lm_head(self.decoder_norm(x))

    def prefill(self, source: Tensor) -> Caches:
        encoded = self.encode(source)
        caches = {"source": Cache({"valid": encoded.valid})}
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, DecoderLayer)
            caches[f"decoder.{number}.self"] = Cache()
            caches[f"decoder.{number}.cross"] = layer.cross_attention.remember(encoded.memory)
        return caches

    def next_logits(self, tokens: Tensor, caches: Caches) -> Tensor:
        x = self._embed(self.target_embedding, tokens, caches["decoder.0.self"].length)
        source_mask = Padding(caches["source"].tensors["valid"])
        for number, layer in enumerate(self.decoder):
            name = f"decoder.{number}"
            own = caches[f"{name}.self"], caches[f"{name}.cross"]
            x = layer(x, Causal(), None, source_mask, *own)
        return self.lm_head(self.decoder_norm(x[:, -1]))

    def _embed(
        self,
        embedding: nn.Embedding,
        tokens: Tensor,
        start: int = 0,
        positions: Tensor | None = None,
    ) -> Tensor:
        vectors = embedding(tokens) * self.embedding_scale
        return self.dropout(self.positions(vectors, start, positions))

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        axes = {}
        for index in range(len(self.encoder)):
            axes[f"encoder.{index}.self_attention"] = ("source", "source")
        for index in range(len(self.decoder)):
            axes[f"decoder.{index}.self_attention"] = ("target", "target")
            axes[f"decoder.{index}.cross_attention"] = ("target", "source")
        return axes
