"""Reading a user's own tables: a line for each example, its columns apart by tabs."""

from collections.abc import Iterator, Sequence
from pathlib import Path


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
        raise ValueError(f"{path}: {reason}; a file of lines {expected} is needed") from None
    if not content:
        raise ValueError(f"{path}: is empty; lines {expected} are needed")
    return list(_lines(path, content, columns))


def _lines(path: str | Path, content: bytes, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
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
