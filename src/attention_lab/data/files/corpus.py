"""A corpus: text files as arrays of token ids in a cache on disk."""

import codecs
import filecmp
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_lab.atomic_write import replacing
from attention_lab.data.core.vocabulary import (
    UNK,
    TextVocabulary,
    Tokens,
    build_vocabulary,
    vocabulary_from_state,
)
from attention_lab.data.files.cache import cache_directory
from attention_lab.data.files.cached_texts import plain_text
from attention_lab.data.files.encodings import not_text
from attention_lab.data.files.paths import expanded, shown
from attention_lab.data.files.shared_passages import Ids, shared_passages

#: Bytes of text in memory at once.
BLOCK = 2**16
#: The version of the cached files; increase it when their format changes.
_FORMAT = 2
#: The longest prefix of a block that ends at a word boundary. (For "bpe", a word includes the space
#: before it.)
_WHOLE_WORDS = re.compile(r".*\S(?=[ \n])", re.DOTALL)

Table = NDArray[np.int64]


class Piece(NamedTuple):
    """A part of a file: its bytes from ``start`` up to ``stop``."""

    path: Path
    start: int
    stop: int
    #: The user's file, for messages; ``path`` has its text if it is compressed or a table.
    source: Path


@dataclass(frozen=True)
class Counts:
    """Numbers of tokens, characters and passages of a split."""

    tokens: int
    characters: int
    #: Tokens that do not occur in training.
    unknown: int
    #: Passages that were compared with the training text; 0 for the training split.
    passages: int = 0
    #: Those of them that occur in the training text.
    shared: int = 0


@dataclass(frozen=True)
class Corpus:
    """The splits of a text as token ids in a cache directory."""

    vocabulary: TextVocabulary
    counts: dict[str, Counts]
    #: Each split's ids minus ``vocabulary.lowest``, (tokens,), memory-mapped.
    ids: dict[str, Ids]
    directory: Path

    def cached_counts(self, name: str, count: Callable[[], Table]) -> Table:
        """The result of ``count``, cached under a name beside the ids."""
        path = self.directory / f"{name}.npy"
        try:
            known: Table = np.load(path)
        except (OSError, ValueError, EOFError):
            counts = count()
            with suppress(OSError):  # if the cache is not writable, each call counts again
                _save(path, counts)
            return counts
        return known


def file_pieces(paths: Sequence[str], columns: Sequence[str] | None = None) -> list[Piece]:
    """A piece for each file: its content without the byte order mark.

    The text of a compressed file or a table is written into the cache.

    Args:
        paths: the files.
        columns: the one column of tables that has the text; None for "text".

    Raises:
        ValueError: naming the file, if it is missing, empty, damaged or cannot be read.
    """
    pieces = []
    for source in map(_absolute, paths):
        try:
            path = plain_text(source, columns)
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                first = file.read(8)
                start = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
        except OSError as error:
            raise ValueError(
                f"{shown(source)}: {str(error.strerror).lower()}; a text file is needed"
            ) from None
        if problem := not_text(first):
            raise ValueError(f"{shown(source)}: {problem}")
        if size <= start:
            raise ValueError(f"{shown(source)}: is empty; a text file is needed")
        pieces.append(Piece(path, start, size, source))
    return pieces


def duplicate_files(some: Sequence[Piece], others: Sequence[Piece]) -> list[Path]:
    """The files among ``others`` with the same content as a file in ``some``.

    Only files of equal size are read.
    """
    return [
        other.source
        for other in others
        if any(filecmp.cmp(each.path, other.path, shallow=False) for each in some)
    ]


def split_pieces(pieces: Sequence[Piece], shares: Sequence[float]) -> list[list[Piece]]:
    """Split pieces into consecutive parts, at character boundaries.

    Args:
        pieces: pieces of UTF-8 files.
        shares: the share of each part in bytes; they sum to 1.
    """
    sizes = [piece.stop - piece.start for piece in pieces]
    ends = [round(share * sum(sizes)) for share in np.cumsum(shares)]
    parts: list[list[Piece]] = [[] for _ in shares]
    before = 0
    for (path, start, stop, source), size in zip(pieces, sizes, strict=True):
        offset = start - before
        bounds = [
            _between_characters(path, offset + min(max(end, before), before + size), stop)
            for end in ends
        ]
        for part, first, last in zip(parts, [start, *bounds], bounds, strict=False):
            if first < last:
                part.append(Piece(path, first, last, source))
        before += size
    return parts


def read_texts(pieces: Sequence[Piece]) -> Iterator[str]:
    """The text of pieces in blocks that end between words, unless a word exceeds a block.

    Raises:
        ValueError: naming the file, the line and the byte that is not UTF-8.
    """
    for path, start, stop, source in pieces:
        decoder = codecs.getincrementaldecoder("utf-8")()
        rest = ""
        with path.open("rb") as file:
            file.seek(start)
            while (place := file.tell()) < stop:
                block = file.read(min(BLOCK, stop - place))
                held = len(decoder.getstate()[0])
                try:
                    text = rest + decoder.decode(block, final=place + len(block) >= stop)
                except UnicodeDecodeError as error:
                    raise ValueError(_not_utf8(path, place - held + error.start, source)) from None
                whole = _WHOLE_WORDS.match(text)
                end = whole.end() if whole else len(text)
                rest = text[end:]
                yield text[:end]
        if rest:
            yield rest


def load_corpus(
    splits: Mapping[str, Sequence[Piece]],
    tokens: Tokens,
    size: int,
    check: Callable[[Mapping[str, Counts]], None],
) -> Corpus:
    """The token ids of splits, from the cache if the files have not changed.

    Args:
        splits: the pieces of each split; "train" defines the vocabulary.
        tokens: the kind of tokens.
        size: size of the vocabulary, for "bpe" only.
        check: raises ValueError if a split is too short; nothing is cached then.

    Raises:
        ValueError: if ``check`` raises it, a file is not UTF-8 or changes while it is read, or the
            cache cannot be written.
    """
    home = cache_directory()
    key = _key(splits, tokens, size)
    directory = home / key
    known = _read(directory)
    if known:
        check(known.counts)
        return known
    try:
        with _partial_directory(home) as partial:
            vocabulary = build_vocabulary(tokens, read_texts(splits["train"]), size)
            check(_write(partial, splits, vocabulary))
            if _key(splits, tokens, size) != key:
                raise ValueError("a text file changed while it was read; run the command again")
            _move_into_cache(partial, directory)
    except OSError as error:
        raise ValueError(
            f"cannot cache token ids in {home}: {error}; set XDG_CACHE_HOME to another directory"
        ) from None
    made = _read(directory)
    assert made is not None
    return made


@contextmanager
def _partial_directory(home: Path) -> Iterator[Path]:
    """A new directory in ``home``, removed at the end unless it was renamed."""
    home.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=home))
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _key(splits: Mapping[str, Sequence[Piece]], tokens: Tokens, size: int) -> str:
    """A hash of everything that the ids depend on."""
    pieces = {
        split: [
            (str(path), start, stop, path.stat().st_size, path.stat().st_mtime_ns)
            for path, start, stop, _ in some
        ]
        for split, some in splits.items()
    }
    settings = [_FORMAT, pieces, tokens, size if tokens == "bpe" else None]
    return blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest()


def _write(
    directory: Path, splits: Mapping[str, Sequence[Piece]], vocabulary: TextVocabulary
) -> dict[str, Counts]:
    """Write the token ids of each split block by block, then ``about.json``."""
    counts = {}
    for split, pieces in splits.items():
        tokens = characters = unknown = 0
        with (directory / f"{split}.ids").open("wb") as file:
            for text in read_texts(pieces):
                ids = vocabulary.encode_array(text)
                file.write((ids - vocabulary.lowest).astype(_stored_type(vocabulary)).tobytes())
                tokens += len(ids)
                characters += len(text)
                unknown += int((ids == UNK).sum())
        counts[split] = Counts(tokens, characters, unknown)
    train, *others = (_mapped(directory / f"{split}.ids", vocabulary) for split in splits)
    for split, (found, compared) in zip(
        list(splits)[1:], shared_passages(train, others), strict=True
    ):
        counts[split] = replace(counts[split], passages=compared, shared=found)
    about = {
        "vocabulary": vocabulary.state_dict(),
        "counts": {split: asdict(known) for split, known in counts.items()},
    }
    (directory / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return counts


def _read(directory: Path) -> Corpus | None:
    """Read a cache directory; None if it is missing or incomplete."""
    try:
        about = json.loads((directory / "about.json").read_text(encoding="utf-8"))
        vocabulary = vocabulary_from_state(about["vocabulary"])
        counts = {split: Counts(**known) for split, known in about["counts"].items()}
        ids = {split: _mapped(directory / f"{split}.ids", vocabulary) for split in counts}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all(len(ids[split]) == counts[split].tokens for split in counts)
    return Corpus(vocabulary, counts, ids, directory) if whole else None


def _mapped(path: Path, vocabulary: TextVocabulary) -> Ids:
    stored = _stored_type(vocabulary)
    return np.memmap(path, stored, "r") if path.stat().st_size else np.zeros(0, stored)


def _save(path: Path, counts: Table) -> None:
    with replacing(path, durable=False) as file:
        np.save(file, counts)


def _move_into_cache(partial: Path, directory: Path) -> None:
    """Move a directory into the cache, unless another process has already done so."""
    if directory.exists() and _read(directory) is None:
        shutil.rmtree(directory)
    try:
        partial.rename(directory)
    except OSError:
        if _read(directory) is None:
            raise


def _stored_type(vocabulary: TextVocabulary) -> np.dtype[Any]:
    return np.min_scalar_type(len(vocabulary) - 1 - vocabulary.lowest)


def _between_characters(path: Path, place: int, stop: int) -> int:
    """The first position at or after ``place`` at which a character begins."""
    with path.open("rb") as file:
        file.seek(place)
        ahead = file.read(min(3, stop - place))
    continued = (byte & 0b11000000 == 0b10000000 for byte in ahead)
    return place + sum(takewhile(bool, continued))


def _not_utf8(path: Path, place: int, source: Path) -> str:
    line, before = 1, 0
    with path.open("rb") as file:
        while before < place:
            block = file.read(min(BLOCK, place - before))
            line += block.count(b"\n")
            before += len(block)
        byte = file.read(1)
    whole = "file" if path == source else "decompressed file"
    return (
        f"{shown(source)}, line {line}: byte {place + 1} of the {whole} (0x{byte.hex()}) is not "
        "UTF-8"
    )


def _absolute(path: str) -> Path:
    return expanded(path).absolute()
