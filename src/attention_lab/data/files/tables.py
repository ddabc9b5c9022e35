"""Tables of the user: CSV, JSON Lines, Parquet and Arrow files, and directories of them."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from attention_lab.data.files.compressed_files import check_size, decompressed, is_compressed
from attention_lab.data.files.paths import TABLES, shown, table_ending, table_files

#: A row's place in a message, and its values.
Row = tuple[str, tuple[Any, ...]]


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The place of each row, such as "own.csv, line 3", and its columns as text.

    Numbers and truth values become text; a missing value becomes "".

    Args:
        path: a table, or a directory of tables, which are read in the order of their names.
        columns: the names of the columns.

    Raises:
        OSError: if a file cannot be read.
        ValueError: naming the file, if it is damaged, a column is missing or is not text, or there
            is no row.
    """
    rows = 0
    for file in files_of_table(path):
        for place, values in _READERS[table_ending(file)](file, columns):
            rows += 1
            yield place, tuple(map(_text, values, columns, [place] * len(values)))
    if not rows:
        raise ValueError(f"{shown(path)}: has no rows")


def files_of_table(path: Path) -> list[Path]:
    """The tables in a directory, or a table itself; ValueError if a directory has none."""
    files = table_files(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{shown(path)}: is a directory without files {', '.join(TABLES)}")
    return files


def check_columns_apply(path: Path, columns: Sequence[str] | None, expected: str) -> None:
    """Raise ValueError if columns are named for a file that is not a table."""
    if columns:
        raise ValueError(
            f"{shown(path)}: has no named columns, so data.columns does not apply: it is a file of "
            f"{expected}; tables end in {', '.join(TABLES)}"
        )


def _csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(_lines(path), strict=True)
    try:
        header = next(reader, [])
        chosen = [_find(column, header, shown(path)) for column in columns]
        for row in reader:
            place = f"{shown(path)}, line {reader.line_num}"
            if row and len(row) != len(header):
                raise ValueError(
                    f"{place}: has {len(row)} fields, but the header has {len(header)}"
                )
            if row:
                yield place, tuple(row[number] for number in chosen)
    except csv.Error as error:
        raise ValueError(f"{shown(path)}, line {reader.line_num}: {error}") from None


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        place = f"{shown(path)}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{place}: is not a JSON object")
        for column in columns:
            _find(column, list(row), place)
        yield place, tuple(row[column] for column in columns)


def _arrow(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a Parquet or Arrow file; the latter in the file or the stream format."""
    try:
        arrow = import_module("pyarrow")
    except ImportError:
        raise ValueError(
            f"{shown(path)}: {path.suffix} files need a package: pip install 'attention-lab[arrow]'"
        ) from None
    number = size = 0
    with path.open("rb") as file:
        try:
            names, batches = (_parquet if path.suffix == ".parquet" else _ipc)(file)
            for column in columns:
                _find(column, names, shown(path))
            for batch in batches(columns):
                selected = [batch.column(column) for column in columns]
                size += sum(column.nbytes for column in selected)
                check_size(path, size)
                for values in zip(*(column.to_pylist() for column in selected), strict=True):
                    number += 1
                    yield f"{shown(path)}, row {number}", values
        except (arrow.ArrowException, OSError) as error:
            problem = str(error).splitlines()[0].rstrip(".")
            raise ValueError(
                f"{shown(path)}: is damaged, or not {path.suffix}: {problem}"
            ) from None


def _parquet(file: BinaryIO) -> tuple[list[str], Callable[[Sequence[str]], Iterable[Any]]]:
    """The names of the columns, and a function that reads some of them in batches."""
    parquet = import_module("pyarrow.parquet").ParquetFile(file)
    return parquet.schema_arrow.names, lambda columns: parquet.iter_batches(columns=list(columns))


def _ipc(file: BinaryIO) -> tuple[list[str], Callable[[Sequence[str]], Iterable[Any]]]:
    """As ``_parquet``; batches have all columns, as the file is not compressed by column."""
    ipc = import_module("pyarrow.ipc")
    if file.read(6) == b"ARROW1":
        reader = ipc.open_file(file)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        return reader.schema.names, lambda columns: batches
    file.seek(0)
    stream = ipc.open_stream(file)
    return stream.schema.names, lambda columns: stream


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, decompressed if need be, without a mark."""
    number = 0
    for number, line in enumerate(_byte_lines(path), start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{shown(path)}, line {number}: byte {error.start + 1} "
                f"(0x{line[error.start]:02x}) is not UTF-8"
            ) from None
    if not number:
        raise ValueError(f"{shown(path)}: is empty")


def _byte_lines(path: Path) -> Iterator[bytes]:
    if not is_compressed(path):
        with path.open("rb") as file:
            yield from file
        return
    rest = b""
    for block in decompressed(path):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _find(column: str, existing: Sequence[str], place: str) -> int:
    """The position of a column; ValueError with those that exist if it is not one of them."""
    if existing.count(column) == 1:
        return existing.index(column)
    problem = "no column" if column not in existing else "several columns"
    raise ValueError(
        f"{place}: has {problem} {column!r}; choose from {', '.join(dict.fromkeys(existing))} with "
        "data.columns=[…]"
    )


def _text(value: Any, column: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{place}: the column {column} is not text, but {type(value).__name__}")
    text = str(value)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{place}: the column {column} has half of a surrogate pair")
    return text


_READERS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _arrow, ".arrow": _arrow}
