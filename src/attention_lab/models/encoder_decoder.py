"""The Transformer encoder–decoder, with layer normalization before each sublayer."""

from typing import Literal

from torch import Tensor, nn

from attention_lab.attention import AttentionLayer, Causal, Mask, Padding
from attention_lab.attention.checks import check_dropout, check_positive
from attention_lab.models.embedding import SinusoidalPositions, token_embedding
from attention_lab.models.protocol import (
    AttentionFactory,
    Encoded,
    SequenceToSequenceNetwork,
    check_cross_attention,
)


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Position-wise feed-forward network (Vaswani et al. 2017, §3.3)."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
    )


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each as x + f(norm(x))."""

    def __init__(
        self, width: int, feed_forward_width: int, attention: AttentionLayer, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.self_attention = attention
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward(width, feed_forward_width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        x = x + self.dropout(self.self_attention(self.attention_norm(x), mask=mask).output)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and a feed-forward network, pre-normalized."""

    def __init__(
        self,
        width: int,
        feed_forward_width: int,
        self_attention: AttentionLayer,
        cross_attention: AttentionLayer,
        dropout: float,
    ) -> None:
        super().__init__()
        check_cross_attention(cross_attention)
        if not self_attention.capabilities.causal:
            raise ValueError(
                f"{type(self_attention).__name__} cannot be causal, as self-attention in a decoder "
                "must be; give it another: +attention@model.self_attention=multi_head"
            )
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = self_attention
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = cross_attention
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward(width, feed_forward_width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, visible: Mask) -> Tensor:
        x = x + self.dropout(self.self_attention(self.self_norm(x), mask=Causal()).output)
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), memory, visible).output)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class EncoderDecoder(SequenceToSequenceNetwork):
    """Transformer encoder–decoder, pre-norm (Vaswani et al. 2017, §3; Xiong et al. 2020).

    Args:
        source_vocabulary: number of source tokens.
        target_vocabulary: number of target tokens.
        cross_attention: makes each decoder layer's attention to the source.
        self_attention: makes the self-attention of every layer of both stacks; None means the
            same mechanism as in cross-attention.
        width: of the residual stream.
        encoder_layers: number of encoder layers.
        decoder_layers: number of decoder layers.
        feed_forward_width: of the hidden layer; None means 4 · width.
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
        width: int = 128,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        feed_forward_width: int | None = None,
        dropout: float = 0.1,
        positions: Literal["sinusoidal", "none"] = "sinusoidal",
        padding: int = 0,
    ) -> None:
        super().__init__()
        hidden = 4 * width if feed_forward_width is None else feed_forward_width
        check_positive(
            width=width,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            feed_forward_width=hidden,
        )
        check_dropout(dropout)
        self_attention = cross_attention if self_attention is None else self_attention
        self.padding = padding
        self.source_embedding = token_embedding(source_vocabulary, width, padding)
        self.target_embedding = token_embedding(target_vocabulary, width, padding)
        if positions not in ("sinusoidal", "none"):
            raise ValueError(f"positions must be sinusoidal or none, got {positions!r}")
        self.positions = SinusoidalPositions(width) if positions == "sinusoidal" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(
            EncoderLayer(width, hidden, self_attention(width, width), dropout)
            for _ in range(encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(
            DecoderLayer(
                width, hidden, self_attention(width, width), cross_attention(width, width), dropout
            )
            for _ in range(decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, target_vocabulary)
        self.embedding_scale = width**0.5

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
        return self.readout(self.decoder_norm(x))

    def _embed(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        return self.dropout(self.positions(embedding(tokens) * self.embedding_scale))

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        axes = {}
        for index in range(len(self.encoder)):
            axes[f"encoder.{index}.self_attention"] = ("source", "source")
        for index in range(len(self.decoder)):
            axes[f"decoder.{index}.self_attention"] = ("target", "target")
            axes[f"decoder.{index}.cross_attention"] = ("target", "source")
        return axes
