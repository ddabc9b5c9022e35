"""What the layers above may ask of a network."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from attention_lab.attention import AttentionLayer

#: Makes an attention layer from (query_dim, memory_dim); models never see which mechanism it is.
AttentionFactory = Callable[[int, int], AttentionLayer]


def check_cross_attention(layer: AttentionLayer) -> None:
    """Raise ValueError unless a layer can attend from the target to the source."""
    if not layer.capabilities.cross_attention:
        raise ValueError(
            f"{type(layer).__name__} attends within one sequence only, not from a target to a "
            "source; give cross-attention another: attention=multi_head"
        )


class Encoded(NamedTuple):
    """An encoded source sequence."""

    memory: Tensor  #: (B, S, width)
    valid: Tensor  #: (B, S) bool, True at real positions
    summary: Tensor | None  #: (layers, B, width), where a recurrent decoder starts


class Network(nn.Module, ABC):
    """A network made of attention."""

    #: What the network solves: "sequence_to_sequence" or "classification".
    task: ClassVar[str]

    @abstractmethod
    def attention_axes(self) -> dict[str, tuple[str, str]]:
        """For each attention layer's name, which sequences its rows and columns run over.

        The sequences are "source" and "target", or "input".
        """


class SequenceToSequenceNetwork(Network):
    """A network that reads a source sequence and writes a target sequence.

    Token ids are int64; ``padding`` marks positions that do not exist.
    """

    task = "sequence_to_sequence"

    @abstractmethod
    def encode(self, source: Tensor) -> Encoded:
        """Encode source tokens (B, S)."""

    @abstractmethod
    def decode(self, target: Tensor, encoded: Encoded) -> Tensor:
        """Next-token logits (B, T, V) at each position of the target's prefix (B, T)."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Next-token logits (B, T, V) with the true prefix given (teacher forcing)."""
        return self.decode(target, self.encode(source))

    @torch.no_grad()
    def greedy(self, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
        """The most probable next token, again and again.

        Args:
            source: (B, S) token ids.
            start: the token every target begins with.
            end: the token that ends a target.
            max_length: give up after so many tokens.

        Returns:
            Token ids (B, T ≤ max_length) without ``start``; whatever follows ``end`` is arbitrary.
        """
        encoded = self.encode(source)
        target = source.new_full((len(source), 1), start)
        ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        for _ in range(max_length):
            token = self.decode(target, encoded)[:, -1].argmax(-1)
            target = torch.cat([target, token.unsqueeze(1)], dim=1)
            ended |= token == end
            if ended.all():
                break
        return target[:, 1:]


class ClassificationNetwork(Network):
    """A network that gives a sequence of vectors one label."""

    task = "classification"

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Class logits (B, classes) of inputs (B, S, features)."""
