"""Vocabularies: tokens and their ids, and how text is encoded and decoded."""

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attention_lab.argument_checks import check_positive

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")

#: The kinds of tokens of text.
Tokens = Literal["characters", "whitespace", "bytes", "bpe"]

#: The default size of a vocabulary of byte pairs.
_DEFAULT_SIZE = 1024

#: UNK decodes to U+FFFD, the replacement character.
_REPLACEMENT = "\ufffd"


class TextVocabulary(ABC):
    """The base class of vocabularies, which encode text as token ids and decode them."""

    #: The smallest id that ``encode`` may return.
    lowest: ClassVar[int] = UNK

    @abstractmethod
    def __len__(self) -> int:
        """Number of tokens, special tokens included."""

    @abstractmethod
    def token(self, id: int) -> str:
        """The token of an id."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens; an unknown token becomes UNK."""

    def encode_array(self, text: str) -> NDArray[np.signedinteger[Any]]:
        """``encode`` for long texts: an array (tokens,)."""
        return np.array(self.encode(text), dtype=np.int64)

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the first EOS, without PAD and BOS."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plain values from which :func:`vocabulary_from_state` recreates the vocabulary."""


class Vocabulary:
    """A fixed mapping between tokens and ids; the first four ids are special tokens.

    Ids depend on the set of tokens, not on their order:

    >>> letters = Vocabulary("banana")
    >>> letters.tokens_to_ids("nab?")
    [6, 4, 5, 3]
    >>> letters.ids_to_tokens([1, 6, 4, 5, 2, 0])
    ['n', 'a', 'b']

    Args:
        tokens: the tokens; duplicates are ignored.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [*SPECIALS, *sorted(set(tokens) - set(SPECIALS))]
        self._ids = {token: id for id, token in enumerate(self._tokens)}

    def __len__(self) -> int:
        return len(self._tokens)

    def token(self, id: int) -> str:
        """The token of an id."""
        return self._tokens[id]

    def tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """The ids of tokens; an unknown token becomes UNK."""
        return [self._ids.get(token, UNK) for token in tokens]

    def ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids up to the first EOS, without PAD and BOS."""
        tokens = []
        for id in ids:
            if id == EOS:
                break
            if id not in (PAD, BOS):
                tokens.append(self._tokens[id])
        return tokens


class Characters(Vocabulary, TextVocabulary):
    """Every character is a token.

    >>> Characters("banana").decode(Characters("banana").encode("nab"))
    'nab'
    """

    def encode(self, text: str) -> list[int]:
        return self.tokens_to_ids(text)

    def encode_array(self, text: str) -> NDArray[np.signedinteger[Any]]:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        return self._id_of_code[np.minimum(codes, len(self._id_of_code) - 1)]

    @cached_property
    def _id_of_code(self) -> NDArray[np.int32]:
        """The id of each code point up to the greatest known one, then UNK."""
        known = {ord(token): id for token, id in self._ids.items() if len(token) == 1}
        ids = np.full(max(known, default=-1) + 2, UNK, dtype=np.int32)
        ids[list(known)] = list(known.values())
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.ids_to_tokens(ids))

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "characters", "tokens": self._tokens}


class Words(Vocabulary, TextVocabulary):
    """Every word between white space is a token.

    >>> Words(["T", "AH"]).decode(Words(["T", "AH"]).encode("T  AH M"))
    'T AH <unk>'
    """

    def encode(self, text: str) -> list[int]:
        # The word "<pad>" in a text is not padding.
        return self.tokens_to_ids(
            SPECIALS[UNK] if word in SPECIALS else word for word in text.split()
        )

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.ids_to_tokens(ids))

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "whitespace", "tokens": self._tokens}


class Bytes(TextVocabulary):
    """Every byte of a text's UTF-8 is a token, so there are no unknown tokens.

    >>> Bytes().encode("né")
    [114, 199, 173]
    >>> Bytes().decode([114, 199, 173])
    'né'
    """

    lowest = len(SPECIALS)

    def __len__(self) -> int:
        return len(SPECIALS) + 256

    def token(self, id: int) -> str:
        """The special token or ASCII character of an id, or its byte as "0xc3"."""
        if not 0 <= id < len(self):
            raise IndexError(f"no token has the id {id}")
        byte = id - len(SPECIALS)
        return SPECIALS[id] if byte < 0 else chr(byte) if 32 <= byte < 127 else f"0x{byte:02x}"

    def encode(self, text: str) -> list[int]:
        return [byte + len(SPECIALS) for byte in text.encode()]

    def encode_array(self, text: str) -> NDArray[np.signedinteger[Any]]:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int16) + len(SPECIALS)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; U+FFFD for UNK and for bytes that are not UTF-8."""
        return _REPLACEMENT.join(
            bytes(id - len(SPECIALS) for id in run).decode(errors="replace") for run in _runs(ids)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "bytes"}


class BytePairs(TextVocabulary):
    """Every byte and frequent sequences of bytes are tokens, so there are no unknown tokens.

    Byte-level byte-pair encoding (Sennrich et al. 2016, "Neural Machine Translation of Rare Words
    with Subword Units", §3.2) within words, as in Radford et al. 2019, §2.2. The package
    ``tokenizers`` implements it. Its tokenizer gets no special tokens, so "<s>" in a text is
    ordinary text.

    Args:
        tokenizer: a serialized tokenizer of that package, in JSON.

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
        """Train a vocabulary of the most frequent sequences in texts; deterministic.

        Args:
            texts: pieces of text, which are iterated once.
            size: number of tokens, including bytes and special tokens; short texts give fewer.

        Raises:
            ValueError: if ``size`` is smaller than the number of bytes and special tokens.
            ImportError: if ``tokenizers`` is not installed.
        """
        if size < len(Bytes()):
            raise ValueError(
                f"vocab_size must be at least {len(Bytes())} (every byte and "
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
        """The special token or the text of an id; U+FFFD for bytes that are not UTF-8."""
        if not 0 <= id < len(self):
            raise IndexError(f"no token has the id {id}")
        return SPECIALS[id] if id < len(SPECIALS) else self.decode([id])

    def encode(self, text: str) -> list[int]:
        (encoding,) = self._tokenizer.encode_batch_fast([text])  # fast: without offsets
        return [id + len(SPECIALS) for id in encoding.ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; U+FFFD for UNK and for bytes that are not UTF-8."""
        return _REPLACEMENT.join(
            self._tokenizer.decode([id - len(SPECIALS) for id in run]) for run in _runs(ids)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "bpe", "tokenizer": self._tokenizer.to_str()}


def check_vocab_size(vocab_size: int | None, *kinds: Tokens) -> int:
    """The configured or default size of a "bpe" vocabulary; warns if no vocabulary is "bpe".

    Args:
        vocab_size: the configured size; None means the default.
        kinds: the kind of tokens of each vocabulary.

    Raises:
        ValueError: if ``vocab_size`` is below 1.
    """
    if vocab_size is None:
        return _DEFAULT_SIZE
    check_positive(vocab_size=vocab_size)
    if "bpe" not in kinds:
        warnings.warn(
            f"vocab_size={vocab_size} has no effect: it applies to bpe only, but tokens are "
            f"{' and '.join(dict.fromkeys(kinds))}",
            stacklevel=2,
        )
    return vocab_size


def build_vocabulary(tokens: Tokens, texts: Iterable[str], size: int) -> TextVocabulary:
    """Build the vocabulary of texts.

    Args:
        tokens: the kind of tokens.
        texts: pieces of text, split between words; iterated once.
        size: number of tokens, for "bpe" only.

    Raises:
        ValueError: if the kind is unknown, or ``size`` is too small.
        ImportError: if the package for "bpe" is not installed.
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


def vocabulary_from_state(state: Mapping[str, Any]) -> TextVocabulary:
    """Recreate a vocabulary from its ``state_dict``."""
    kinds = {"characters": Characters, "whitespace": Words, "bytes": Bytes, "bpe": BytePairs}
    arguments = {name: value for name, value in state.items() if name != "kind"}
    made: TextVocabulary = kinds[state["kind"]](**arguments)
    return made


def _runs(ids: Iterable[int]) -> list[list[int]]:
    """Ids up to the first EOS, without PAD and BOS, split at each UNK."""
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
        importlib.import_module("tokenizers")
    except ImportError as error:
        raise ImportError("bpe needs tokenizers: pip install 'attention-lab[bpe]'") from error
