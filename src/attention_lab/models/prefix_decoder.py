"""A decoder-only network for sequence-to-sequence tasks."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from attention_lab.attention import Cache
from attention_lab.models.base import AttentionFactory, Caches, SequenceToSequenceNetwork
from attention_lab.models.blocks import document_ids
from attention_lab.models.decoder import Decoder


class PrefixDecoder(SequenceToSequenceNetwork):
    """A causal decoder over the concatenation of source and target, without padding in between.

    Source and target tokens have separate embeddings. When decoding, rows whose sources have the
    same length are computed together.

    Args:
        source_vocab_size: number of source tokens.
        target_vocab_size: number of target tokens.
        self_attention: creates the attention of each layer.
        hybrid: mechanisms by name that the layers cycle through, instead of ``self_attention``.
        d_model: width of the residual stream.
        num_layers: number of layers.
        dim_feedforward: width of the feed-forward network; None means 4 · d_model, 0 none.
        conv_kernel_size: positions of a short causal convolution before attention; None means none.
        positions: position embedding: "sinusoidal" or "none".
        tie_word_embeddings: whether lm_head shares the embedding's weight.
        init: "default" or "gpt2", as in :class:`attention_lab.models.decoder.Decoder`.
        init_std: initial standard deviation of embeddings, lm_head and positions; None means
            1 / √d_model, or 0.02 for "gpt2".
        dropout: probability, on embeddings and on the output of each sublayer.
        padding_idx: the id of the padding token.

    Raises:
        ValueError: if a value is out of range, or a mechanism cannot be causal.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        *,
        self_attention: AttentionFactory,
        hybrid: Mapping[str, AttentionFactory] | None = None,
        d_model: int = 128,
        num_layers: int = 2,
        dim_feedforward: int | None = None,
        conv_kernel_size: int | None = None,
        positions: Literal["sinusoidal", "none"] = "sinusoidal",
        tie_word_embeddings: bool = True,
        init: Literal["default", "gpt2"] = "default",
        init_std: float | None = None,
        dropout: float = 0.1,
        padding_idx: int = 0,
    ) -> None:
        super().__init__()
        if positions not in ("sinusoidal", "none"):
            raise ValueError(f"positions must be sinusoidal or none, got {positions!r}")
        self.source_vocab_size, self.padding_idx = source_vocab_size, padding_idx
        self.decoder = Decoder(
            source_vocab_size + target_vocab_size,
            max_length=0,  # no learned positions
            self_attention=self_attention,
            hybrid=hybrid,
            d_model=d_model,
            num_layers=num_layers,
            dim_feedforward=dim_feedforward,
            conv_kernel_size=conv_kernel_size,
            positions=positions,
            tie_word_embeddings=tie_word_embeddings,
            init=init,
            init_std=init_std,
            dropout=dropout,
        )

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_positions: Tensor | None = None,
        target_positions: Tensor | None = None,
    ) -> Tensor:
        if source_positions is not None and target_positions is not None:
            return self._packed_logits(source, target, source_positions, target_positions)
        starts = (source != self.padding_idx).sum(1, keepdim=True)
        states = self.decoder.hidden_states(self._joined(source, target, starts))
        places = starts + torch.arange(target.shape[1], device=target.device)
        states = states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return self.decoder.lm_head(states)[..., self.source_vocab_size :]

    def _packed_logits(
        self, source: Tensor, target: Tensor, source_positions: Tensor, target_positions: Tensor
    ) -> Tensor:
        """Logits (B, T, V) for rows of several pairs: each source directly precedes its target."""
        sources, targets = document_ids(source_positions), document_ids(target_positions)
        tokens = torch.cat([source, target + self.source_vocab_size], 1)
        order = torch.cat([sources, targets], 1).argsort(dim=1, stable=True)
        is_start = torch.cat([source_positions == 0, torch.zeros_like(targets).bool()], 1)
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        first = (places * is_start.gather(1, order)).cummax(1).values
        states = self.decoder.hidden_states(tokens.gather(1, order), positions=places - first)
        of_targets = order.argsort(1)[:, source.shape[1] :]
        states = states.gather(1, of_targets.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return self.decoder.lm_head(states)[..., self.source_vocab_size :]

    def prefill(self, source: Tensor) -> Caches:
        rows = _RowsByLength((source != self.padding_idx).sum(1))
        for length, members, caches in rows.groups:
            if length:
                self.decoder.hidden_states(source[members, :length], caches)
        return {"rows": rows}

    def next_logits(self, tokens: Tensor, caches: Caches) -> Tensor:
        rows = caches["rows"]
        assert isinstance(rows, _RowsByLength)
        target = tokens + self.source_vocab_size
        logits = [self.decoder.next_logits(target[members], own) for _, members, own in rows.groups]
        order = torch.cat([members for _, members, _ in rows.groups]).argsort()
        return torch.cat(logits)[order, self.source_vocab_size :]

    def _joined(self, source: Tensor, target: Tensor, starts: Tensor) -> Tensor:
        """Each source without its padding, directly followed by its target, (B, S + T)."""
        length = source.shape[1] + target.shape[1]
        places = torch.arange(length, device=source.device).expand(len(source), -1)
        sources = source.gather(1, places.clamp(max=source.shape[1] - 1))
        targets = target.gather(1, (places - starts).clamp(0, target.shape[1] - 1))
        return torch.where(places < starts, sources, targets + self.source_vocab_size)

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {f"decoder.{name}": ("both", "both") for name in self.decoder.attention_axes()}


class _Group(NamedTuple):
    """The rows of a batch whose sources have one length."""

    length: int
    members: Tensor  # their row numbers, (G,) int64
    caches: Caches


class _RowsByLength(Cache):
    """Caches of rows whose sources differ in length: separate caches for each length.

    All rows of a group then have the same positions and no padding, which a mechanism with a
    recurrent state could not mask afterwards.

    Args:
        lengths: the lengths of the sources, (B,).
    """

    def __init__(self, lengths: Tensor) -> None:
        super().__init__()
        self.groups = [
            _Group(length, (lengths == length).nonzero().flatten(), {})
            for length in lengths.unique().tolist()
        ]

    def select(self, rows: Tensor) -> None:
        groups = []
        for length, members, caches in self.groups:
            new_members, places = (rows.unsqueeze(1) == members).nonzero(as_tuple=True)
            for cache in caches.values():
                cache.select(places)
            groups.append(_Group(length, new_members, caches))
        self.groups = [group for group in groups if len(group.members)]

    @property
    def size(self) -> int:
        return sum(cache.size for group in self.groups for cache in group.caches.values())
