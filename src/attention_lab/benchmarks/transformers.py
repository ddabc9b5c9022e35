"""Transformers of other libraries and one written by hand, in the sizes of a shipped model.

Each has the inputs and outputs of ours: a language model takes tokens (B, L) and returns logits
(B, L, V); an encoder–decoder takes source (B, S) and target (B, T) and returns logits (B, T, V).
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.benchmarks.implementations import Skipped
from attention_lab.benchmarks.peers import installed

#: Standard deviation of initial embeddings, as in GPT-2.
STD = 0.02


class Sizes(NamedTuple):
    """The sizes that all models of a comparison share."""

    d_model: int
    num_heads: int
    num_layers: int
    vocab_size: int
    max_length: int
    source_vocab_size: int = 0


Maker = Callable[[Sizes], nn.Module | Skipped]


class Block(nn.Module):
    """One layer of GPT-2, with one matrix for queries, keys and values."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.num_heads = sizes.d_model, sizes.num_heads
        self.norm, self.other_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        split = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.other_norm(x))


class Embedded(nn.Module):
    """Token embeddings with learned positions, and logits tied to the embeddings."""

    def __init__(self, vocab_size: int, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, sizes.d_model)
        nn.init.normal_(self.embedding.weight, std=STD)
        self.positions = nn.Parameter(torch.randn(sizes.max_length, sizes.d_model) * STD)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) + self.positions[: tokens.shape[1]]

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, L, V) of outputs (B, L, d_model)."""
        return F.linear(x, self.embedding.weight)


class GPT(nn.Module):
    """A GPT-2 of a file, written by hand around torch's SDPA."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedded = Embedded(sizes.vocab_size, sizes)
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.num_layers)))
        self.norm = nn.LayerNorm(sizes.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedded.logits(self.norm(self.blocks(self.embedded(tokens))))


class TorchDecoder(nn.Module):
    """A causal language model of ``nn.TransformerEncoder``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedded = Embedded(sizes.vocab_size, sizes)
        layer = nn.TransformerEncoderLayer(
            sizes.d_model,
            sizes.num_heads,
            4 * sizes.d_model,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, sizes.num_layers, nn.LayerNorm(sizes.d_model), enable_nested_tensor=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], tokens.device)
        return self.embedded.logits(self.layers(self.embedded(tokens), mask, is_causal=True))


class TorchEncoderDecoder(nn.Module):
    """``nn.Transformer`` with embeddings and an output head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.source = Embedded(sizes.source_vocab_size, sizes)
        self.target = Embedded(sizes.vocab_size, sizes)
        with warnings.catch_warnings():  # nested tensors need post-norm; there is no argument
            warnings.simplefilter("ignore")
            self.transformer = nn.Transformer(
                sizes.d_model,
                sizes.num_heads,
                sizes.num_layers,
                sizes.num_layers,
                4 * sizes.d_model,
                dropout=0.0,
                batch_first=True,
                norm_first=True,
            )
        self.lm_head = nn.Linear(sizes.d_model, sizes.vocab_size)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], target.device)
        padding = source == 0
        output = self.transformer(
            self.source(source),
            self.target(target),
            tgt_mask=mask,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return self.lm_head(output)


def x_transformers_decoder(sizes: Sizes) -> nn.Module | Skipped:
    """A causal language model of x-transformers, with flash attention."""
    library: Any = installed("x_transformers", "x-transformers")
    if isinstance(library, Skipped):
        return library
    layers = library.Decoder(**_x_transformers_sizes(sizes))
    wrapper: nn.Module = library.TransformerWrapper(
        num_tokens=sizes.vocab_size,
        max_seq_len=sizes.max_length,
        attn_layers=layers,
        tie_embedding=True,
    )
    return wrapper


class _XEncoderDecoder(nn.Module):
    """An encoder–decoder of x-transformers."""

    def __init__(self, library: Any, sizes: Sizes) -> None:
        super().__init__()
        shared = _x_transformers_sizes(sizes)
        self.encoder = library.TransformerWrapper(
            num_tokens=sizes.source_vocab_size,
            max_seq_len=sizes.max_length,
            attn_layers=library.Encoder(**shared),
            return_only_embed=True,
        )
        self.decoder = library.TransformerWrapper(
            num_tokens=sizes.vocab_size,
            max_seq_len=sizes.max_length,
            attn_layers=library.Decoder(**shared, cross_attend=True),
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = source != 0
        return self.decoder(target, context=self.encoder(source, mask=mask), context_mask=mask)


def x_transformers_encoder_decoder(sizes: Sizes) -> nn.Module | Skipped:
    """An encoder–decoder of x-transformers, with flash attention."""
    library = installed("x_transformers", "x-transformers")
    return library if isinstance(library, Skipped) else _XEncoderDecoder(library, sizes)


def _x_transformers_sizes(sizes: Sizes) -> dict[str, Any]:
    return {
        "dim": sizes.d_model,
        "depth": sizes.num_layers,
        "heads": sizes.num_heads,
        "attn_dim_head": sizes.d_model // sizes.num_heads,
        "attn_flash": True,
    }


#: The other models of the same size, by the kind of ours.
OTHERS: Mapping[str, Mapping[str, Maker]] = {
    "decoder": {
        "GPT by hand": GPT,
        "nn.TransformerEncoder": TorchDecoder,
        "x-transformers": x_transformers_decoder,
    },
    "encoder_decoder": {
        "nn.Transformer": TorchEncoderDecoder,
        "x-transformers": x_transformers_encoder_decoder,
    },
}
