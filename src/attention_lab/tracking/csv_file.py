"""A CSV file that grows while a run trains, and continues where a checkpoint left it."""

import csv
import io
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.untrusted_files import open_file


class CSVFile:
    """A CSV file with a row for each call of :meth:`append`.

    Only a new column rewrites the file, atomically.

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

    def resume(self, rows: int) -> None:
        """Keep the first ``rows`` rows of an existing file, and append to them."""
        known = self._read()[:rows]
        if len(known) < rows:
            warnings.warn(f"{self.path} has {len(known)} rows instead of {rows}", stacklevel=2)
        self.rows, self._pending = len(known), []
        self._rewrite(list(known[0]) if known else [], known)

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with io.TextIOWrapper(open_file(self.path), "utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        header = dict(zip(columns, columns, strict=True))
        write_atomically(self.path, _lines(columns, [header, *rows]) if columns else "")
        self._columns = list(columns)


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
