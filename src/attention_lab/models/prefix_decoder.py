"""A decoder alone that reads the source as the beginning of what it writes."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from attention_lab.attention import Cache
from attention_lab.models.decoder import Decoder
from attention_lab.models.protocol import AttentionFactory, Past, SequenceToSequenceNetwork


class PrefixDecoder(SequenceToSequenceNetwork):
    """A causal decoder over source and target in one sequence, without padding in between.

    Tokens of the two vocabularies have embeddings of their own. Sources in a batch may differ in
    length; when writing, rows whose sources are equally long go on together.

    Args:
        source_vocabulary: number of source tokens.
        target_vocabulary: number of target tokens.
        self_attention: makes the attention of every layer.
        hybrid: mechanisms by any names, which the layers use in turn, in place of
            ``self_attention``.
        d_model: of the residual stream.
        num_layers: number of layers.
        dim_feedforward: of the hidden layer; None means 4 · d_model, 0 no feed-forward network.
        convolution: kernel of a short causal convolution before attention; None means none.
        positions: what is added to the embeddings: "sinusoidal" or "none".
        tied: whether lm_head is the embedding transposed.
        init: "default" or "gpt2", as in :class:`attention_lab.models.decoder.Decoder`.
        init_std: standard deviation of embeddings and lm_head at the beginning, to which sinusoids
            are scaled; None means 1 / √d_model, or GPT-2's 0.02.
        dropout: probability, on embeddings and on what each sublayer adds.
        padding: the token id that marks absent positions.

    Raises:
        ValueError: if a value is out of range, or a mechanism cannot be causal.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        self_attention: AttentionFactory,
        hybrid: Mapping[str, AttentionFactory] | None = None,
        d_model: int = 128,
        num_layers: int = 2,
        dim_feedforward: int | None = None,
        convolution: int | None = None,
        positions: Literal["sinusoidal", "none"] = "sinusoidal",
        tied: bool = True,
        init: Literal["default", "gpt2"] = "default",
        init_std: float | None = None,
        dropout: float = 0.1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        if positions not in ("sinusoidal", "none"):
            raise ValueError(f"positions must be sinusoidal or none, got {positions!r}")
        self.source_vocabulary, self.padding = source_vocabulary, padding
        self.decoder = Decoder(
            source_vocabulary + target_vocabulary,
            length=0,  # of learned positions, which it has not
            self_attention=self_attention,
            hybrid=hybrid,
            d_model=d_model,
            num_layers=num_layers,
            dim_feedforward=dim_feedforward,
            convolution=convolution,
            positions=positions,
            tied=tied,
            init=init,
            init_std=init_std,
            dropout=dropout,
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        starts = (source != self.padding).sum(1, keepdim=True)
        states = self.decoder.states(self._joined(source, target, starts))
        places = starts + torch.arange(target.shape[1], device=target.device)
        written = states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return self.decoder.lm_head(written)[..., self.source_vocabulary :]

    def read(self, source: Tensor) -> Past:
        rows = _RowsByLength((source != self.padding).sum(1))
        for length, members, past in rows.groups:
            if length:
                self.decoder.states(source[members, :length], past)
        return {"rows": rows}

    def next(self, tokens: Tensor, past: Past) -> Tensor:
        rows = past["rows"]
        assert isinstance(rows, _RowsByLength)
        target = tokens + self.source_vocabulary
        logits = [self.decoder.next(target[members], own) for _, members, own in rows.groups]
        order = torch.cat([members for _, members, _ in rows.groups]).argsort()
        return torch.cat(logits)[order, self.source_vocabulary :]

    def _joined(self, source: Tensor, target: Tensor, starts: Tensor) -> Tensor:
        """Each source without its padding, and its target right behind it, (B, S + T)."""
        read, written = source.shape[1], target.shape[1]
        places = torch.arange(read + written, device=source.device).expand(len(source), -1)
        sources = source.gather(1, places.clamp(max=read - 1))
        targets = target.gather(1, (places - starts).clamp(0, written - 1))
        return torch.where(places < starts, sources, targets + self.source_vocabulary)

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {f"decoder.{name}": ("both", "both") for name in self.decoder.attention_axes()}


class _Group(NamedTuple):
    """The rows of a batch whose sources have one length."""

    length: int
    members: Tensor  # their numbers, (G,) int64
    past: Past


class _RowsByLength(Cache):
    """The past of rows whose sources differ in length: one for each length.

    Positions then are the same in all rows of a group, and no row has padding within, of which
    mechanisms that keep sums of the past could not be told.

    Args:
        lengths: of the rows' sources, (B,).
    """

    def __init__(self, lengths: Tensor) -> None:
        super().__init__()
        self.groups = [
            _Group(length, (lengths == length).nonzero().flatten(), {})
            for length in lengths.unique().tolist()
        ]

    def select(self, rows: Tensor) -> None:
        groups = []
        for length, members, past in self.groups:
            new_members, places = (rows.unsqueeze(1) == members).nonzero(as_tuple=True)
            for cache in past.values():
                cache.select(places)
            groups.append(_Group(length, new_members, past))
        self.groups = [group for group in groups if len(group.members)]

    @property
    def size(self) -> int:
        return sum(cache.size for group in self.groups for cache in group.past.values())
