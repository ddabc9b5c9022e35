"""Tokens and their ids."""

from collections.abc import Iterable

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")


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
