"""What the layers above may ask of a network."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from attention_lab.attention import AttentionLayer, Cache

#: Makes an attention layer from (embed_dim, kdim); models never see which mechanism it is.
AttentionFactory = Callable[[int, int], AttentionLayer]

#: What a network that writes step by step keeps of what it has read and written, by its own names.
Past = dict[str, Cache]


def check_cross_attention(layer: AttentionLayer) -> None:
    """Raise ValueError unless a layer can attend from the target to the source."""
    if not layer.capabilities.cross_attention:
        raise ValueError(
            f"{type(layer).__name__} attends within one sequence only, not from a target to a "
            "source; give cross-attention another: attention=multi_head"
        )


class Encoded(NamedTuple):
    """An encoded source sequence."""

    memory: Tensor  #: (B, S, d_model)
    valid: Tensor  #: (B, S) bool, True at real positions
    summary: Tensor | None  #: (layers, B, d_model), where a recurrent decoder starts


class Network(nn.Module, ABC):
    """A network made of attention."""

    #: What the network solves: "sequence_to_sequence", "classification" or "language_model".
    task: ClassVar[str]

    @abstractmethod
    def attention_axes(self) -> dict[str, tuple[str, str]]:
        """For each attention layer's name, which sequences its rows and columns run over.

        The sequences are "source" and "target", "both" (the target behind the source), or "input".
        """


class SequenceToSequenceNetwork(Network):
    """A network that reads a source sequence and writes a target sequence.

    Token ids are int64; ``padding`` marks positions that do not exist.
    """

    task = "sequence_to_sequence"

    @abstractmethod
    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Next-token logits (B, T, V) at each position of the true prefix (teacher forcing).

        Args:
            source: (B, S) token ids.
            target: (B, T) token ids, the prefix.
        """

    @abstractmethod
    def read(self, source: Tensor) -> Past:
        """What to keep of source tokens (B, S), to write their targets step by step."""

    @abstractmethod
    def next(self, tokens: Tensor, past: Past) -> Tensor:
        """Logits (B, V) of what follows the tokens (B, n ≥ 1), which follow those in the past."""


class EncoderDecoderNetwork(SequenceToSequenceNetwork):
    """A network with one part that reads and one that writes."""

    @abstractmethod
    def encode(self, source: Tensor) -> Encoded:
        """Encode source tokens (B, S)."""

    @abstractmethod
    def decode(self, target: Tensor, encoded: Encoded) -> Tensor:
        """Next-token logits (B, T, V) at each position of the target's prefix (B, T)."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.decode(target, self.encode(source))


class ClassificationNetwork(Network):
    """A network that gives a sequence of vectors or tokens one label."""

    task = "classification"

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Class logits (B, classes) of inputs: vectors (B, S, features) or token ids (B, S)."""


class LanguageNetwork(Network):
    """A network that reads tokens from left to right and says at each what comes next.

    Padding may only follow: no position looks ahead.
    """

    task = "language_model"

    #: Logits (…, V) of states (…, d_model).
    lm_head: nn.Module

    @abstractmethod
    def states(self, tokens: Tensor, past: Past | None = None) -> Tensor:
        """The input of lm_head at each position, (B, L, d_model), of token ids (B, L).

        With a past the tokens follow those in it, and join it.
        """

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, L, V) of what follows each position of (B, L)."""
        return self.lm_head(self.states(tokens))

    def next(self, tokens: Tensor, past: Past) -> Tensor:
        """Logits (B, V) of what follows the tokens (B, n ≥ 1), which follow those in the past.

        The past of a sequence that begins here is empty.
        """
        return self.lm_head(self.states(tokens, past)[:, -1])
