"""Tab-separated files with one example per line."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from attention_lab.data.core.splits import SPLITS, split_by_hash
from attention_lab.data.core.vocabulary import Tokens
from attention_lab.data.files.compressed_files import decompressed, is_compressed
from attention_lab.data.files.encodings import not_text
from attention_lab.data.files.paths import expanded, shown

#: If all other labels have so many lines, a label that only the first line has is a header's.
_FREQUENT = 3

LineT = TypeVar("LineT", bound=tuple[str, ...])


def read_columns(path: str | Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The columns of each line of a UTF-8 file, in the order of the lines.

    A file whose name ends in ``.gz`` or ``.zst`` is decompressed. Lines end with LF or CRLF. White
    space around a column and a byte order mark are dropped.

    Args:
        path: the file; relative paths start at the working directory.
        columns: the names of the columns, for messages.

    Raises:
        ValueError: naming the file and the line, if the file cannot be read or is empty, or a
            line is not UTF-8, has a different number of columns, or an empty column.
    """
    expected = " TAB ".join(columns)
    try:
        content = _content(expanded(path))
    except OSError as error:
        reason = str(error.strerror).lower()
        raise ValueError(f"{shown(path)}: {reason}; a file of lines {expected} is needed") from None
    if not content:
        raise ValueError(f"{shown(path)}: is empty; a file of lines {expected} is needed")
    if problem := not_text(content[:8]):
        raise ValueError(f"{shown(path)}: {problem}")
    lines = list(_lines(shown(path), content, columns))
    if len(lines) > 1 and _is_header(lines, columns):
        warnings.warn(
            f"{shown(path)}, line 1 looks like a header, but is read as an example; remove it",
            stacklevel=2,
        )
    return lines


def _content(path: Path) -> bytes:
    return b"".join(decompressed(path)) if is_compressed(path) else path.read_bytes()


def _is_header(lines: Sequence[tuple[str, ...]], columns: Sequence[str]) -> bool:
    """Whether the last column of the first line occurs once, and is its name or a rare label."""
    first, *others = (line[-1] for line in lines)
    if first in others:
        return False
    is_name = first.lower() in (columns[-1], "class", "label", "target")
    return is_name or (columns[-1] == "label" and min(Counter(others).values()) >= _FREQUENT)


def normalize_whitespace(text: str, tokens: Tokens) -> str:
    """The text with single spaces between its words, if words are the tokens.

    >>> normalize_whitespace("no  film", "whitespace")
    'no film'
    >>> normalize_whitespace("no  film", "characters")
    'no  film'
    """
    return " ".join(text.split()) if tokens == "whitespace" else text


def assign_splits(
    path: str,
    lines: Sequence[LineT],
    given: Mapping[str, list[LineT]],
    shares: Mapping[str, float],
    kind: str,
) -> dict[str, list[LineT]]:
    """The lines of each split; a split without a file gets a part of the training lines.

    The part is chosen by a hash of the first column, so lines that share it stay together.

    Args:
        path: the training file, for messages.
        lines: the lines of the training file.
        given: the lines of the splits that have their own files.
        shares: the share of the training file of each split that has a part of it.
        kind: the word for the first column in messages, such as "texts".

    Raises:
        ValueError: if a split gets no line.
    """
    firsts = {line[0] for line in lines}
    assigned = split_by_hash(firsts, shares["train"], shares.get("validation", 0))
    split_of = {first: split for split in shares for first in assigned[split]}
    parts = {split: [line for line in lines if split_of[line[0]] == split] for split in shares}
    for split, part in parts.items():
        if not part:
            raise ValueError(
                f"{shown(path)}: too few different {kind} ({len(firsts)}) to assign any to "
                f"{split}; add lines, or use data.{split}=FILE"
            )
    return {split: (parts | dict(given))[split] for split in SPLITS}


def _lines(path: str, content: bytes, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    while len(lines) > 1 and not lines[-1].strip():  # blank lines at the end
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            fields = tuple(field.strip() for field in line.decode().split("\t"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: byte {error.start + 1} (0x{line[error.start]:02x}) is not "
                "UTF-8"
            ) from None
        if len(fields) != len(columns):
            raise ValueError(
                f"{path}, line {number}: expected {' TAB '.join(columns)}, got "
                f"{len(fields) - 1} tabs"
            )
        for column, field in zip(columns, fields, strict=True):
            if not field:
                raise ValueError(f"{path}, line {number}: the {column} is empty")
        yield fields
