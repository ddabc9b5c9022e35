"""The recurrent encoder–decoder: where attention was born."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attention_lab.attention import Padding
from attention_lab.attention.checks import check_dropout, check_positive
from attention_lab.models.embedding import token_embedding
from attention_lab.models.protocol import (
    AttentionFactory,
    Encoded,
    SequenceToSequenceNetwork,
    check_cross_attention,
)

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentEncoderDecoder(SequenceToSequenceNetwork):
    """Bidirectional recurrent encoder, recurrent decoder, attention in between.

    The decoder's state h_t is the query and the encoder's states are the memory; readout and
    combination h̃_t = tanh(W [c_t; h_t]) follow Luong et al. 2015, §3. With ``input_feeding`` the
    previous h̃ also enters the decoder's next step (ibid., §3.3), so that earlier attention steers
    later attention as in Bahdanau et al. 2015; it is slower, since steps must run one by one.

    Args:
        source_vocabulary: number of source tokens.
        target_vocabulary: number of target tokens.
        cross_attention: makes the decoder's attention to the source.
        width: of embeddings and of the decoder's state; each encoder direction has half. Even.
        layers: recurrent layers in the encoder and in the decoder.
        cell: "lstm" or "gru".
        input_feeding: whether the attentional state enters the next step.
        dropout: probability, on embeddings, between layers and before the readout.
        padding: the token id that marks absent positions.

    Raises:
        ValueError: if a value is out of range, or the mechanism cannot attend to a source.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        cross_attention: AttentionFactory,
        width: int = 128,
        layers: int = 1,
        cell: Literal["lstm", "gru"] = "lstm",
        input_feeding: bool = False,
        dropout: float = 0.1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        check_positive(width=width, layers=layers)
        check_dropout(dropout)
        if width % 2:
            raise ValueError(f"width must be even (two encoder directions), got {width}")
        if cell not in CELLS:
            raise ValueError(f"cell must be lstm or gru, got {cell!r}")
        recurrent, between = CELLS[cell], dropout if layers > 1 else 0.0
        decoder_input = 2 * width if input_feeding else width
        self.padding, self.input_feeding, self.is_lstm = padding, input_feeding, cell == "lstm"
        self.source_embedding = token_embedding(source_vocabulary, width, padding)
        self.target_embedding = token_embedding(target_vocabulary, width, padding)
        self.dropout = nn.Dropout(dropout)
        self.encoder = recurrent(
            width, width // 2, layers, batch_first=True, bidirectional=True, dropout=between
        )
        self.bridge = nn.Linear(width, width)
        self.decoder = recurrent(decoder_input, width, layers, batch_first=True, dropout=between)
        self.cross_attention = cross_attention(width, width)
        check_cross_attention(self.cross_attention)
        self.combine = nn.Linear(2 * width, width)
        self.readout = nn.Linear(width, target_vocabulary)

    def encode(self, source: Tensor) -> Encoded:
        valid = source != self.padding
        embedded = self.dropout(self.source_embedding(source))
        # Packing keeps the backward direction from starting in the padding.
        packed = pack_padded_sequence(
            embedded, valid.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.encoder(packed)
        memory, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        last = last[0] if self.is_lstm else last  # (layers · 2, B, width / 2)
        both_directions = last.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2)
        return Encoded(memory, valid, summary=torch.tanh(self.bridge(both_directions)))

    def decode(self, target: Tensor, encoded: Encoded) -> Tensor:
        embedded = self.dropout(self.target_embedding(target))
        assert encoded.summary is not None
        start = encoded.summary
        state = (start, torch.zeros_like(start)) if self.is_lstm else start
        if self.input_feeding:
            attentional = self._step_by_step(embedded, state, encoded)
        else:
            hidden, _ = self.decoder(embedded, state)
            attentional = self._attend(hidden, encoded)
        return self.readout(self.dropout(attentional))

    def _attend(self, hidden: Tensor, encoded: Encoded, start: int = 0) -> Tensor:
        mask = Padding(encoded.valid)
        context = self.cross_attention(hidden, encoded.memory, mask, start=start).output
        return torch.tanh(self.combine(torch.cat([context, hidden], dim=-1)))

    def _step_by_step(
        self, embedded: Tensor, state: Tensor | tuple[Tensor, Tensor], encoded: Encoded
    ) -> Tensor:
        attentional = [torch.zeros_like(embedded[:, :1])]
        for position, step in enumerate(embedded.split(1, dim=1)):
            hidden, state = self.decoder(torch.cat([step, attentional[-1]], dim=-1), state)
            attentional.append(self._attend(hidden, encoded, position))
        return torch.cat(attentional[1:], dim=1)

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {"cross_attention": ("target", "source")}
