"""CSV files: one that grows while a run trains, tables, and cells that are safe to open."""

import csv
import io
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.untrusted_files import open_file

#: First characters that make a spreadsheet read a cell as a formula; the last four are full-width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell(value: object) -> object:
    """A value as a cell of a CSV file: text that a spreadsheet would evaluate gets a leading '.

    >>> cell("=1+1"), cell(-0.5), cell("-0.5")
    ("'=1+1", -0.5, '-0.5')
    """
    if not (isinstance(value, str) and value.startswith(_FORMULA)):
        return value
    is_number = re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", value, re.ASCII)
    return value if is_number else f"'{value}"


def csv_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *(map(cell, row) for row in rows)])
    return text.getvalue()


class CSVFile:
    """A CSV file with a row for each call of :meth:`append`.

    Only a new column rewrites the file: atomically, and durably once :meth:`sync` was called.

    Args:
        path: the file.
        columns: the columns in their order; None means those of the rows, sorted.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        self.path = path
        #: The number of rows.
        self.rows = 0
        self._order = columns
        self._columns: list[str] = []
        self._pending: list[dict[str, Any]] = []
        #: Whether the file has rows that must survive a power failure.
        self._is_synced = False

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, which :meth:`save` writes."""
        self._pending.append(dict(row))
        self.rows += 1

    def save(self) -> None:
        """Write the pending rows."""
        if not self._pending:
            return
        names = set[str]().union(*self._pending)
        if names <= set(self._columns):
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_lines(self._columns, self._pending))
        else:
            known = self._read()[: self.rows - len(self._pending)] if self._columns else []
            columns = self._order or sorted(names.union(self._columns))
            self._rewrite(columns, [*known, *self._pending])
        self._pending = []

    def sync(self) -> None:
        """Write all rows durably, so that they survive a power failure."""
        self.save()
        if self.path.exists():
            with self.path.open("a") as file:
                os.fsync(file.fileno())
            self._is_synced = True

    def resume(self, rows: int) -> None:
        """Keep the first ``rows`` rows of an existing file, and append to them."""
        known = self._read()[:rows]
        if len(known) < rows:
            warnings.warn(f"{self.path} has {len(known)} rows instead of {rows}", stacklevel=2)
        self.rows, self._pending = len(known), []
        self._is_synced = True
        self._rewrite(list(known[0]) if known else [], known)

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with io.TextIOWrapper(open_file(self.path), "utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        header = dict(zip(columns, columns, strict=True))
        text = _lines(columns, [header, *rows]) if columns else ""
        write_atomically(self.path, text, self._is_synced)
        self._columns = list(columns)


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
