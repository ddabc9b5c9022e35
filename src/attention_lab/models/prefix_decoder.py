"""A decoder alone that reads the source as the beginning of what it writes."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from attention_lab.attention import Cache
from attention_lab.models.decoder import Decoder
from attention_lab.models.protocol import AttentionFactory, Past, SequenceToSequenceNetwork


class PrefixDecoder(SequenceToSequenceNetwork):
    """A causal decoder over source and target in one sequence, without padding in between.

    Tokens of the two vocabularies have embeddings of their own. Sources in a batch may differ in
    length, so writing reads everything again at each step, and keeps no cache.

    Args:
        source_vocabulary: number of source tokens.
        target_vocabulary: number of target tokens.
        self_attention: makes the attention of every layer.
        hybrid: mechanisms by any names, which the layers use in turn, in place of
            ``self_attention``.
        width: of the residual stream.
        layers: number of layers.
        feed_forward_width: of the hidden layer; None means 4 · width, 0 no feed-forward network.
        convolution: kernel of a short causal convolution before attention; None means none.
        positions: what is added to the embeddings: "sinusoidal" or "none".
        tied: whether the readout is the embedding transposed.
        init_std: standard deviation of embeddings and readout at the beginning, to which sinusoids
            are scaled.
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
        width: int = 128,
        layers: int = 2,
        feed_forward_width: int | None = None,
        convolution: int | None = None,
        positions: Literal["sinusoidal", "none"] = "sinusoidal",
        tied: bool = True,
        init_std: float = 0.02,
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
            width=width,
            layers=layers,
            feed_forward_width=feed_forward_width,
            convolution=convolution,
            positions=positions,
            tied=tied,
            init_std=init_std,
            dropout=dropout,
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        starts = (source != self.padding).sum(1, keepdim=True)
        states = self.decoder.states(self._joined(source, target, starts))
        places = starts + torch.arange(target.shape[1], device=target.device)
        written = states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return self.decoder.readout(written)[..., self.source_vocabulary :]

    def read(self, source: Tensor) -> Past:
        return {"source": Cache({"tokens": source}), "target": Cache()}

    def next(self, tokens: Tensor, past: Past) -> Tensor:
        before = past["target"].tensors.get("tokens")
        target = tokens if before is None else torch.cat([before, tokens], dim=1)
        past["target"].replace({"tokens": target})
        return self(past["source"].tensors["tokens"], target)[:, -1]

    def _joined(self, source: Tensor, target: Tensor, starts: Tensor) -> Tensor:
        """Each source without its padding, and its target right behind it, (B, S + T)."""
        read, written = source.shape[1], target.shape[1]
        places = torch.arange(read + written, device=source.device).expand(len(source), -1)
        sources = source.gather(1, places.clamp(max=read - 1))
        targets = target.gather(1, (places - starts).clamp(0, written - 1))
        return torch.where(places < starts, sources, targets + self.source_vocabulary)

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {f"decoder.{name}": ("both", "both") for name in self.decoder.attention_axes()}
