"""Tokens and their ids, and how text is made of tokens."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attention_lab.attention.validation import check_positive

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")

#: What tokens of text can be.
Tokens = Literal["characters", "whitespace", "bytes", "bpe"]

#: How many tokens byte pairs are, where no number is given.
_USUAL_SIZE = 1024

#: How an UNK in the middle of bytes is written: U+FFFD, the replacement character.
_UNREADABLE = "\ufffd"


class TextVocabulary(ABC):
    """Numbers tokens, and turns text into their ids and back."""

    #: The smallest id that ``read`` may give.
    lowest: ClassVar[int] = UNK

    @abstractmethod
    def __len__(self) -> int:
        """How many tokens there are, special ones included."""

    @abstractmethod
    def token(self, id: int) -> str:
        """The token that has this id."""

    @abstractmethod
    def read(self, text: str) -> list[int]:
        """The ids of a text's tokens; what is not known becomes UNK."""

    def ids(self, text: str) -> NDArray[np.signedinteger[Any]]:
        """What ``read`` gives, (tokens,), for long texts."""
        return np.array(self.read(text), dtype=np.int64)

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

    def ids(self, text: str) -> NDArray[np.signedinteger[Any]]:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        return self._id_of_code[np.minimum(codes, len(self._id_of_code) - 1)]

    @cached_property
    def _id_of_code(self) -> NDArray[np.int32]:
        """The id of each code point up to the greatest that is known, and UNK behind it."""
        known = {ord(token): id for token, id in self._ids.items() if len(token) == 1}
        ids = np.full(max(known, default=-1) + 2, UNK, dtype=np.int32)
        ids[list(known)] = list(known.values())
        return ids

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
        return {"kind": "whitespace", "tokens": self._tokens}


class Bytes(TextVocabulary):
    """Every byte of a text's UTF-8 is a token, so every text can be read.

    >>> Bytes().read("né")
    [114, 199, 173]
    >>> Bytes().write([114, 199, 173])
    'né'
    """

    lowest = len(SPECIALS)

    def __len__(self) -> int:
        return len(SPECIALS) + 256

    def token(self, id: int) -> str:
        """The special token or the ASCII character of this id, or its byte as "0xc3"."""
        if not 0 <= id < len(self):
            raise IndexError(f"there is no token {id}")
        byte = id - len(SPECIALS)
        return SPECIALS[id] if byte < 0 else chr(byte) if 32 <= byte < 127 else f"0x{byte:02x}"

    def read(self, text: str) -> list[int]:
        return [byte + len(SPECIALS) for byte in text.encode()]

    def ids(self, text: str) -> NDArray[np.signedinteger[Any]]:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int16) + len(SPECIALS)

    def write(self, ids: Iterable[int]) -> str:
        """The text of some ids; what is not UTF-8, and UNK, becomes U+FFFD."""
        return _UNREADABLE.join(
            bytes(id - len(SPECIALS) for id in run).decode(errors="replace") for run in _runs(ids)
        )

    def state(self) -> dict[str, Any]:
        return {"kind": "bytes"}


class BytePairs(TextVocabulary):
    """Frequent sequences of bytes are tokens, and so is every byte: every text can be read.

    Byte-level byte-pair encoding: Sennrich et al. 2016, "Neural Machine Translation of Rare Words
    with Subword Units", §3.2, on bytes and within words, as Radford et al. 2019, §2.2, have it. The
    package ``tokenizers`` does the work. It is told of no special tokens, so that a text which
    happens to hold "<s>" is read as any other.

    Args:
        tokenizer: that package's description of a tokenizer, in JSON.

    Raises:
        ImportError: if ``tokenizers`` is not installed.
    """

    lowest = len(SPECIALS)

    def __init__(self, tokenizer: str) -> None:
        _require_tokenizers()
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(tokenizer)

    @classmethod
    def trained(cls, texts: Iterable[str], size: int) -> "BytePairs":
        """Byte pairs of the most frequent sequences in some texts, the same for the same texts.

        Args:
            texts: pieces of text, which are read once and not kept.
            size: number of tokens, bytes and special ones included; fewer if there is not enough
                text for so many.

        Raises:
            ValueError: if ``size`` leaves no room for every byte.
            ImportError: if ``tokenizers`` is not installed.
        """
        if size < len(Bytes()):
            raise ValueError(
                f"vocabulary must be at least {len(Bytes())} (every byte and "
                f"{len(SPECIALS)} special tokens), got {size}"
            )
        _require_tokenizers()
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    @cached_property
    def _size(self) -> int:
        return len(SPECIALS) + self._tokenizer.get_vocab_size()

    def __len__(self) -> int:
        return self._size

    def token(self, id: int) -> str:
        """The special token or the text of this id; U+FFFD for bytes that are no text alone."""
        if not 0 <= id < len(self):
            raise IndexError(f"there is no token {id}")
        return SPECIALS[id] if id < len(SPECIALS) else self.write([id])

    def read(self, text: str) -> list[int]:
        (read,) = self._tokenizer.encode_batch_fast([text])  # fast: does not say where each was
        return [id + len(SPECIALS) for id in read.ids]

    def write(self, ids: Iterable[int]) -> str:
        """The text of some ids; what is not UTF-8, and UNK, becomes U+FFFD."""
        return _UNREADABLE.join(
            self._tokenizer.decode([id - len(SPECIALS) for id in run]) for run in _runs(ids)
        )

    def state(self) -> dict[str, Any]:
        return {"kind": "bpe", "tokenizer": self._tokenizer.to_str()}


def check_vocabulary_size(vocabulary: int | None, *kinds: Tokens) -> int:
    """How many tokens byte pairs are to be; a number that changes nothing is warned of.

    Args:
        vocabulary: the number that was given; None for the usual one.
        kinds: what tokens are, of each vocabulary that it is for.

    Raises:
        ValueError: if it is below 1.
    """
    if vocabulary is None:
        return _USUAL_SIZE
    check_positive(vocabulary=vocabulary)
    if "bpe" not in kinds:
        warnings.warn(
            f"vocabulary={vocabulary} changes nothing: it is for bpe, and tokens are "
            f"{' and '.join(dict.fromkeys(kinds))} here",
            stacklevel=2,
        )
    return vocabulary


def build_vocabulary(tokens: Tokens, texts: Iterable[str], size: int) -> TextVocabulary:
    """The vocabulary of some texts, which are read once and not kept.

    Args:
        tokens: what its tokens are.
        texts: pieces of text; words do not go on from one to the next.
        size: number of tokens; for "bpe" only.

    Raises:
        ValueError: if there is no such kind, or ``size`` is too small.
        ImportError: if "bpe" lacks its package.
    """
    match tokens:
        case "characters":
            return Characters(character for text in texts for character in set(text))
        case "whitespace":
            return Words(word for text in texts for word in text.split())
        case "bytes":
            return Bytes()
        case "bpe":
            return BytePairs.trained(texts, size)
    raise ValueError(f"tokens must be characters, whitespace, bytes or bpe, got {tokens!r}")


def restored(state: Mapping[str, Any]) -> TextVocabulary:
    """The vocabulary whose ``state`` this is."""
    kinds = {"characters": Characters, "whitespace": Words, "bytes": Bytes, "bpe": BytePairs}
    arguments = {name: value for name, value in state.items() if name != "kind"}
    made: TextVocabulary = kinds[state["kind"]](**arguments)
    return made


def _runs(ids: Iterable[int]) -> list[list[int]]:
    """Ids up to the first EOS, without PAD and BOS, cut at each UNK."""
    runs: list[list[int]] = [[]]
    for id in ids:
        if id == EOS:
            break
        if id == UNK:
            runs.append([])
        elif id not in (PAD, BOS):
            runs[-1].append(id)
    return runs


def _require_tokenizers() -> None:
    try:
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise ImportError("bpe needs tokenizers: pip install 'attention-lab[bpe]'") from error
