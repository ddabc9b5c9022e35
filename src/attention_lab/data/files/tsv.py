"""A user's own tables: a line for each example, its columns apart by tabs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from attention_lab.data.core.splits import SPLITS, shares_without, split_by_hash
from attention_lab.data.core.vocabulary import Tokens
from attention_lab.data.files.paths import shown

LineT = TypeVar("LineT", bound=tuple[str, ...])


def read_columns(path: str | Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The columns of each line of a UTF-8 file; the n-th tuple is line n, counted from 1.

    Lines end with a line feed, alone or after a carriage return. White space around a column does
    not belong to it. A byte order mark is passed over.

    Args:
        path: of the file, from the directory in which the command was given, unless absolute.
        columns: what each column is called, for messages.

    Raises:
        ValueError: naming the file, and the line if it is one line's fault: the file cannot be
            read or has no line, a line has more or fewer columns, is not UTF-8, or has nothing in
            one of them.
    """
    expected = " TAB ".join(columns)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        reason = str(error.strerror).lower()
        raise ValueError(f"{shown(path)}: {reason}; a file of lines {expected} is needed") from None
    if not content:
        raise ValueError(f"{shown(path)}: is empty; a file of lines {expected} is needed")
    return list(_lines(shown(path), content, columns))


def as_read(text: str, tokens: Tokens) -> str:
    """What a vocabulary sees of a text: between words, one space is as good as several.

    >>> as_read("no  film", "whitespace"), as_read("no  film", "characters")
    ('no film', 'no  film')
    """
    return " ".join(text.split()) if tokens == "whitespace" else text


def deal(
    path: str, lines: Sequence[LineT], given: Mapping[str, list[LineT]], kind: str
) -> dict[str, list[LineT]]:
    """The lines of each split, those of training dealt where a split has none of its own.

    They are dealt by a hash of their first column, so lines that are equal in it stay together.

    Args:
        path: of the training file, for messages.
        lines: its lines.
        given: the lines of the splits that have a file of their own.
        kind: what the first column holds, such as "texts", for messages.

    Raises:
        ValueError: if none of the lines falls to a split.
    """
    shares = shares_without(given)
    firsts = {line[0] for line in lines}
    dealt = split_by_hash(firsts, shares["train"], shares.get("validation", 0))
    split_of = {first: split for split in shares for first in dealt[split]}
    parts = {split: [line for line in lines if split_of[line[0]] == split] for split in shares}
    for split, part in parts.items():
        if not part:
            raise ValueError(
                f"{shown(path)}: of {len(firsts)} different {kind} none falls to {split}; give "
                f"more lines, or data.{split}=FILE"
            )
    return {split: (parts | dict(given))[split] for split in SPLITS}


def _lines(path: str, content: bytes, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    lines = content.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
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
