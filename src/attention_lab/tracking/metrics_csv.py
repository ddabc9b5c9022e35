"""metrics.csv: every logged metric by step."""

import csv
import io
import os
import warnings
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.untrusted_files import open_file


class MetricsCSVLogger(Logger):
    """Logs metrics to a CSV file, with a row for each call and a column for each metric.

    Rows are appended. Only a new metric, which needs a new column, rewrites the file, atomically.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        #: The number of rows.
        self.rows = 0
        self._columns: list[str] = []
        self._pending: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: hyperparameters are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._pending.append({**metrics, "step": step})
        self.rows += 1

    @rank_zero_only
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
            self._rewrite(sorted(names.union(self._columns)), [*known, *self._pending])
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
