"""The decoder: a causal language model."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from attention_lab.attention import Causal
from attention_lab.attention.validation import check_dropout, check_positive
from attention_lab.models.blocks import (
    GPT2_STD,
    SelfAttentionBlock,
    in_turn,
    initialize_as_gpt2,
    require_causal,
)
from attention_lab.models.embedding import position_embedding
from attention_lab.models.protocol import AttentionFactory, LanguageNetwork, Past


class Decoder(LanguageNetwork):
    """Transformer decoder, pre-norm, as in GPT-2 (Radford et al. 2019, §2.3).

    Embeddings, learned positions and sinusoids initially have unit length in expectation, at any
    d_model. The logits of a tied lm_head then have a standard deviation of 1, so the first loss is
    about log(vocabulary) + ½. Mechanisms keep their own initialization unless
    ``init="gpt2"`` asks for another by name.

    Args:
        vocabulary: number of tokens.
        length: greatest number of positions, for learned ones.
        self_attention: makes the attention of every layer.
        hybrid: mechanisms by any names, which the layers use in turn, in place of
            ``self_attention``.
        d_model: of the residual stream.
        num_layers: number of layers.
        dim_feedforward: of the hidden layer; None means 4 · d_model, 0 no feed-forward network.
        convolution: kernel of a short causal convolution before attention; None means none.
        positions: what is added to the embeddings: "learned", "sinusoidal" or "none".
        tied: whether lm_head is the embedding transposed (Press & Wolf 2017).
        init: "default", or "gpt2": embeddings, positions, lm_head and all projections begin with a
            standard deviation of 0.02, those that end in the residual stream with
            0.02 / √(2 · num_layers) (:func:`attention_lab.models.blocks.initialize_as_gpt2`).
        init_std: standard deviation of embeddings, lm_head and learned positions at the beginning,
            to which sinusoids are scaled; None means 1 / √d_model, or GPT-2's 0.02.
        dropout: probability, on embeddings and on what each sublayer adds.

    Raises:
        ValueError: if a value is out of range, or a mechanism cannot be causal.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        self_attention: AttentionFactory,
        hybrid: Mapping[str, AttentionFactory] | None = None,
        d_model: int = 128,
        num_layers: int = 2,
        dim_feedforward: int | None = None,
        convolution: int | None = None,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        tied: bool = True,
        init: Literal["default", "gpt2"] = "default",
        init_std: float | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, num_layers=num_layers)
        check_dropout(dropout)
        if convolution is not None and convolution < 1:
            raise ValueError(f"convolution must be at least 1, or null for none, got {convolution}")
        dim_feedforward = 4 * d_model if dim_feedforward is None else dim_feedforward
        if init not in ("default", "gpt2"):
            raise ValueError(f"init must be default or gpt2, got {init!r}")
        if init_std is None:
            init_std = GPT2_STD if init == "gpt2" else d_model**-0.5
        if init_std <= 0:
            raise ValueError(f"init_std must be above 0, got {init_std}")
        self.embedding = nn.Embedding(vocabulary, d_model)
        nn.init.normal_(self.embedding.weight, std=init_std)
        self.positions = position_embedding(positions, d_model, length, init_std)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            SelfAttentionBlock(
                d_model,
                require_causal(attention(d_model, d_model), "attention"),
                dim_feedforward,
                dropout,
                nn.GELU,
                convolution,
            )
            for attention in in_turn(self_attention, hybrid, num_layers)
        )
        if init == "gpt2":
            initialize_as_gpt2(self.layers)
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.lm_head.weight, std=init_std)

    def states(self, tokens: Tensor, past: Past | None = None) -> Tensor:
        seen = past["layers.0"].length if past else 0
        x = self.dropout(self.positions(self.embedding(tokens), seen))
        for number, layer in enumerate(self.layers):
            x = layer(x, Causal(), past, f"layers.{number}")
        return self.norm(x)

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {
            f"layers.{number}.self_attention": ("input", "input")
            for number in range(len(self.layers))
        }
