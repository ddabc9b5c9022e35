"""The recurrent encoder–decoder with attention (Bahdanau et al. 2015; Luong et al. 2015)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attention_lab.argument_checks import check_dropout, check_positive
from attention_lab.attention import Cache, Padding
from attention_lab.models.base import (
    AttentionFactory,
    Caches,
    Encoded,
    EncoderDecoderNetwork,
    check_cross_attention,
)
from attention_lab.models.embedding import token_embedding

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentEncoderDecoder(EncoderDecoderNetwork):
    """Bidirectional recurrent encoder, and recurrent decoder with cross-attention.

    The decoder's state h_t is the query, the encoder's states are the memory, and lm_head gets
    h̃_t = tanh(W [c_t; h_t]) (Luong et al. 2015, §3). With ``input_feeding``, h̃_t is also an input
    of the next step (ibid., §3.3), so attention depends on earlier attention as in Bahdanau et al.
    2015. It is slower, since steps run one after the other.

    Args:
        source_vocab_size: number of source tokens.
        target_vocab_size: number of target tokens.
        cross_attention: creates the cross-attention of the decoder.
        d_model: width of embeddings and of the decoder's state; even, since each direction of the
            encoder has half.
        num_layers: recurrent layers in the encoder and in the decoder.
        cell: "lstm" or "gru".
        input_feeding: whether h̃_t is an input of the next step.
        dropout: probability, on embeddings, between layers and before lm_head.
        padding_idx: the id of the padding token.

    Raises:
        ValueError: if a value is out of range, or the mechanism cannot attend to a source.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        *,
        cross_attention: AttentionFactory,
        d_model: int = 128,
        num_layers: int = 1,
        cell: Literal["lstm", "gru"] = "lstm",
        input_feeding: bool = False,
        dropout: float = 0.1,
        padding_idx: int = 0,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model, num_layers=num_layers)
        check_dropout(dropout)
        if d_model % 2:
            raise ValueError(f"d_model must be even (two encoder directions), got {d_model}")
        if cell not in CELLS:
            raise ValueError(f"cell must be lstm or gru, got {cell!r}")
        recurrent, between = CELLS[cell], dropout if num_layers > 1 else 0.0
        decoder_input = 2 * d_model if input_feeding else d_model
        self.padding_idx, self.input_feeding, self.is_lstm = (
            padding_idx,
            input_feeding,
            cell == "lstm",
        )
        self.source_embedding = token_embedding(source_vocab_size, d_model, padding_idx)
        self.target_embedding = token_embedding(target_vocab_size, d_model, padding_idx)
        self.dropout = nn.Dropout(dropout)
        self.encoder = recurrent(
            d_model, d_model // 2, num_layers, batch_first=True, bidirectional=True, dropout=between
        )
        self.bridge = nn.Linear(d_model, d_model)
        self.decoder = recurrent(
            decoder_input, d_model, num_layers, batch_first=True, dropout=between
        )
        self.cross_attention = cross_attention(d_model, d_model)
        check_cross_attention(self.cross_attention)
        self.combine = nn.Linear(2 * d_model, d_model)
        self.lm_head = nn.Linear(d_model, target_vocab_size)

    def encode(self, source: Tensor) -> Encoded:
        valid = source != self.padding_idx
        embedded = self.dropout(self.source_embedding(source))
        # Packing: the backward direction must not start in the padding.
        packed = pack_padded_sequence(
            embedded, valid.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.encoder(packed)
        memory, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        last = last[0] if self.is_lstm else last  # (num_layers · 2, B, d_model / 2)
        both_directions = last.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2)
        return Encoded(memory, valid, summary=torch.tanh(self.bridge(both_directions)))

    def decode(self, target: Tensor, encoded: Encoded) -> Tensor:
        embedded = self.dropout(self.target_embedding(target))
        if self.input_feeding:
            attentional = self._step_by_step(embedded, self._caches(encoded))
        else:
            hidden, _ = self.decoder(embedded, self._initial_state(encoded))
            mask = Padding(encoded.valid)
            context = self.cross_attention(hidden, encoded.memory, mask).output
            attentional = self._attentional(context, hidden)
        return self.lm_head(self.dropout(attentional))

    def prefill(self, source: Tensor) -> Caches:
        return self._caches(self.encode(source))

    def next_logits(self, tokens: Tensor, caches: Caches) -> Tensor:
        return self.lm_head(self._step_by_step(self.target_embedding(tokens), caches)[:, -1])

    def _initial_state(self, encoded: Encoded) -> Tensor | tuple[Tensor, Tensor]:
        """The decoder's initial state, (num_layers, B, d_model); an LSTM's cell state is zero."""
        assert encoded.summary is not None
        start = encoded.summary
        return (start, torch.zeros_like(start)) if self.is_lstm else start

    def _caches(self, encoded: Encoded) -> Caches:
        nothing = torch.zeros_like(encoded.memory[:, :1])
        return {
            "source": Cache({"valid": encoded.valid}),
            "memory": self.cross_attention.remember(encoded.memory),
            "state": Cache(_batch_first(nothing, self._initial_state(encoded))),
        }

    def _step_by_step(self, embedded: Tensor, caches: Caches) -> Tensor:
        """The attentional states h̃ (B, n, d_model) of the next n embeddings; updates the caches."""
        mask = Padding(caches["source"].tensors["valid"])
        last, *parts = caches["state"].tensors.values()
        layers_first = tuple(part.transpose(0, 1).contiguous() for part in parts)
        state = layers_first if self.is_lstm else layers_first[0]
        attentional = []
        for step in embedded.split(1, dim=1):
            fed = torch.cat([step, last], dim=-1) if self.input_feeding else step
            hidden, state = self.decoder(fed, state)
            context = self.cross_attention(hidden, mask=mask, cache=caches["memory"]).output
            last = self._attentional(context, hidden)
            attentional.append(last)
        caches["state"].replace(_batch_first(last, state))
        return torch.cat(attentional, dim=1)

    def _attentional(self, context: Tensor, hidden: Tensor) -> Tensor:
        """h̃ = tanh(W [c; h]) (Luong et al. 2015, eq. 5)."""
        return torch.tanh(self.combine(torch.cat([context, hidden], dim=-1)))

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {"cross_attention": ("target", "source")}


def _batch_first(attentional: Tensor, state: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The tensors of the next step by name, with the batch as first dimension."""
    parts = (state,) if isinstance(state, Tensor) else state
    names = ("attentional", "hidden", "cell")
    tensors = (attentional, *(part.transpose(0, 1) for part in parts))
    return dict(zip(names, tensors, strict=False))
