"""The Transformer decoder: a causal language model."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from attention_lab.argument_checks import check_dropout, check_positive
from attention_lab.attention import Causal, Documents, Mask
from attention_lab.models.base import AttentionFactory, Caches, LanguageNetwork
from attention_lab.models.blocks import (
    GPT2_STD,
    SelfAttentionBlock,
    attention_per_layer,
    document_ids,
    initialize_as_gpt2,
    require_causal,
)
from attention_lab.models.embedding import position_embedding


class Decoder(LanguageNetwork):
    """Transformer decoder, pre-norm, as in GPT-2 (Radford et al. 2019, §2.3).

    Embeddings, learned positions and sinusoids initially have unit length in expectation, at any
    d_model. The logits of a tied lm_head then have a standard deviation of 1, so the first loss is
    about log(vocab_size) + ½. Mechanisms keep their own initialization unless
    ``init`` is "gpt2".

    Args:
        vocab_size: number of tokens.
        max_length: greatest number of positions, for learned positions only.
        self_attention: creates the attention of each layer.
        hybrid: mechanisms by name that the layers cycle through, instead of ``self_attention``.
        d_model: width of the residual stream.
        num_layers: number of layers.
        dim_feedforward: width of the feed-forward network; None means 4 · d_model, 0 none.
        conv_kernel_size: positions of a short causal convolution before attention; None means none.
        positions: position embedding: "learned", "sinusoidal" or "none".
        tie_word_embeddings: whether lm_head shares the embedding's weight (Press & Wolf 2017).
        init: "default", or "gpt2": an initial standard deviation of 0.02 for embeddings,
            positions, lm_head and projections, and of 0.02 / √(2 · num_layers) for projections that
            add to the residual stream (:func:`attention_lab.models.blocks.initialize_as_gpt2`).
        init_std: initial standard deviation of embeddings, lm_head and positions; None means
            1 / √d_model, or 0.02 for "gpt2".
        dropout: probability, on embeddings and on the output of each sublayer.

    Raises:
        ValueError: if a value is out of range, or a mechanism cannot be causal.
    """

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        *,
        self_attention: AttentionFactory,
        hybrid: Mapping[str, AttentionFactory] | None = None,
        d_model: int = 128,
        num_layers: int = 2,
        dim_feedforward: int | None = None,
        conv_kernel_size: int | None = None,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        tie_word_embeddings: bool = True,
        init: Literal["default", "gpt2"] = "default",
        init_std: float | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, num_layers=num_layers)
        check_dropout(dropout)
        if conv_kernel_size is not None and conv_kernel_size < 1:
            raise ValueError(
                f"conv_kernel_size must be at least 1, or null for none, got {conv_kernel_size}"
            )
        dim_feedforward = 4 * d_model if dim_feedforward is None else dim_feedforward
        if init not in ("default", "gpt2"):
            raise ValueError(f"init must be default or gpt2, got {init!r}")
        if init_std is None:
            init_std = GPT2_STD if init == "gpt2" else d_model**-0.5
        if init_std <= 0:
            raise ValueError(f"init_std must be above 0, got {init_std}")
        self.embedding = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.embedding.weight, std=init_std)
        self.positions = position_embedding(positions, d_model, max_length, init_std)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            SelfAttentionBlock(
                d_model,
                require_causal(attention(d_model, d_model), "attention"),
                dim_feedforward,
                dropout,
                nn.GELU,
                conv_kernel_size,
            )
            for attention in attention_per_layer(self_attention, hybrid, num_layers)
        )
        if init == "gpt2":
            initialize_as_gpt2(self.layers)
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        if tie_word_embeddings:
            self.lm_head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.lm_head.weight, std=init_std)

    def hidden_states(
        self, tokens: Tensor, caches: Caches | None = None, positions: Tensor | None = None
    ) -> Tensor:
        start = caches["layers.0"].length if caches else 0
        x = self.dropout(self.positions(self.embedding(tokens), start, positions))
        mask: Mask = Causal()
        if positions is not None:
            if self.layers[0].convolution is not None:
                raise ValueError("model.conv_kernel_size: a convolution mixes packed documents")
            mask &= Documents(document_ids(positions))
        for number, layer in enumerate(self.layers):
            x = layer(x, mask, caches, f"layers.{number}")
        return self.norm(x)

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {
            f"layers.{number}.self_attention": ("input", "input")
            for number in range(len(self.layers))
        }
