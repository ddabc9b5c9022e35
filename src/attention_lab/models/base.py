"""The base classes of networks: one for each task."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from attention_lab.attention import AttentionLayer, Cache

#: Creates an attention layer from (embed_dim, kdim). A model does not know the mechanism.
AttentionFactory = Callable[[int, int], AttentionLayer]

#: The state of step-by-step decoding: caches of keys and values, by names the network chooses.
Caches = dict[str, Cache]


def check_cross_attention(layer: AttentionLayer) -> None:
    """Raise ValueError if a layer cannot attend from the target to the source."""
    if not layer.info.cross_attention:
        raise ValueError(
            f"{type(layer).__name__} attends within one sequence only, so it cannot be "
            "cross-attention; use attention=multi_head"
        )


class Encoded(NamedTuple):
    """An encoded source sequence."""

    memory: Tensor  #: (B, S, d_model)
    valid: Tensor  #: (B, S) bool, True at real positions
    summary: Tensor | None  #: (num_layers, B, d_model), initial state of a recurrent decoder
    documents: Tensor | None = None  #: (B, S) int64, each position's document, if rows are packed


class Network(nn.Module, ABC):
    """A network built from attention."""

    #: The task it is for: "sequence_to_sequence", "classification" or "language_model".
    task: ClassVar[str]

    @abstractmethod
    def attention_axes(self) -> dict[str, tuple[str, str]]:
        """The sequences of the queries and of the keys, by the name of each attention layer.

        A sequence is "source", "target", "both" (the source, then the target) or "input".
        """


class SequenceToSequenceNetwork(Network):
    """A network that maps a source sequence to a target sequence, both token ids (int64)."""

    task = "sequence_to_sequence"

    @abstractmethod
    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Next-token logits (B, T, V) at each position of the target (teacher forcing).

        A network that can be trained on packed rows has two more arguments, ``source_positions``
        and ``target_positions``, which are None if rows are not packed. A pair's source and its
        target start at a position 0, and no pair attends to another.

        Args:
            source: (B, S) token ids.
            target: (B, T) token ids, beginning with BOS.
        """

    @abstractmethod
    def prefill(self, source: Tensor) -> Caches:
        """Caches of source tokens (B, S), with which decoding starts."""

    @abstractmethod
    def next_logits(self, tokens: Tensor, caches: Caches) -> Tensor:
        """Logits (B, V) of the next token after tokens (B, n ≥ 1); appends these to the caches."""


class EncoderDecoderNetwork(SequenceToSequenceNetwork):
    """A network of an encoder and a decoder."""

    @abstractmethod
    def encode(self, source: Tensor) -> Encoded:
        """Encode source tokens (B, S)."""

    @abstractmethod
    def decode(self, target: Tensor, encoded: Encoded) -> Tensor:
        """Next-token logits (B, T, V) at each position of the target (B, T)."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.decode(target, self.encode(source))


class ClassificationNetwork(Network):
    """A network that classifies a sequence of vectors or tokens."""

    task = "classification"

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, num_classes) for vectors (B, S, in_features) or token ids (B, S)."""


class LanguageNetwork(Network):
    """A causal language model. Padding is allowed after a sequence only."""

    task = "language_model"

    #: Maps hidden states (…, d_model) to logits (…, V).
    lm_head: nn.Module

    @abstractmethod
    def hidden_states(
        self, tokens: Tensor, caches: Caches | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """The inputs of ``lm_head``, (B, L, d_model), for token ids (B, L).

        With caches, the tokens continue those in the caches and are appended to them.

        With positions, (B, L) int64, rows are packed: a document starts at each position 0, and
        no document attends to another.
        """

    def forward(self, tokens: Tensor) -> Tensor:
        """Next-token logits (B, L, V) at each position of tokens (B, L)."""
        return self.lm_head(self.hidden_states(tokens))

    def next_logits(self, tokens: Tensor, caches: Caches) -> Tensor:
        """Logits (B, V) of the next token after tokens (B, n ≥ 1); appends these to the caches.

        A sequence starts with empty caches.
        """
        return self.lm_head(self.hidden_states(tokens, caches)[:, -1])
