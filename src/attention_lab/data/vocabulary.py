"""Tokens and their ids, and how text is made of tokens."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")


class TextVocabulary(ABC):
    """Numbers tokens, and turns text into their ids and back."""

    @abstractmethod
    def __len__(self) -> int:
        """How many tokens there are, special ones included."""

    @abstractmethod
    def token(self, id: int) -> str:
        """The token that has this id."""

    @abstractmethod
    def read(self, text: str) -> list[int]:
        """The ids of a text's tokens; what is not known becomes UNK."""

    @abstractmethod
    def write(self, ids: Iterable[int]) -> str:
        """The text of some ids up to the first EOS, without PAD and BOS."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain values from which :func:`restored` makes it again."""


class Vocabulary:
    """A fixed numbering of tokens, starting with four special ones.

    The numbering depends on the set of tokens only, not on their order:

    >>> letters = Vocabulary("banana")
    >>> letters.encode("nab?")
    [6, 4, 5, 3]
    >>> letters.decode([1, 6, 4, 5, 2, 0])
    ['n', 'a', 'b']

    Args:
        tokens: the tokens to number; repetitions are fine.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [*SPECIALS, *sorted(set(tokens) - set(SPECIALS))]
        self._ids = {token: id for id, token in enumerate(self._tokens)}

    def __len__(self) -> int:
        return len(self._tokens)

    def token(self, id: int) -> str:
        """The token that has this id."""
        return self._tokens[id]

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """The ids of some tokens; a token the vocabulary does not have becomes UNK."""
        return [self._ids.get(token, UNK) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The tokens of some ids up to the first EOS, without PAD and BOS."""
        tokens = []
        for id in ids:
            if id == EOS:
                break
            if id not in (PAD, BOS):
                tokens.append(self._tokens[id])
        return tokens


class Characters(Vocabulary, TextVocabulary):
    """Every character is a token.

    >>> Characters("banana").write(Characters("banana").read("nab"))
    'nab'
    """

    def read(self, text: str) -> list[int]:
        return self.encode(text)

    def write(self, ids: Iterable[int]) -> str:
        return "".join(self.decode(ids))

    def state(self) -> dict[str, Any]:
        return {"kind": "characters", "tokens": self._tokens}


class Words(Vocabulary, TextVocabulary):
    """Tokens are what white space stands between.

    >>> Words(["T", "AH"]).write(Words(["T", "AH"]).read("T  AH M"))
    'T AH <unk>'
    """

    def read(self, text: str) -> list[int]:
        # A text may hold a word "<pad>", but that word is not padding.
        return self.encode(SPECIALS[UNK] if word in SPECIALS else word for word in text.split())

    def write(self, ids: Iterable[int]) -> str:
        return " ".join(self.decode(ids))

    def state(self) -> dict[str, Any]:
        return {"kind": "words", "tokens": self._tokens}


def restored(state: dict[str, Any]) -> TextVocabulary:
    """The vocabulary whose ``state`` this is."""
    kinds = {"characters": Characters, "words": Words}
    return kinds[state["kind"]](state["tokens"])
