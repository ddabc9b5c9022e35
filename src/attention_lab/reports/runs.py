"""Read the runs of sweeps from their directories: config, status, result and metrics."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from attention_lab.config.identity import is_immaterial, material
from attention_lab.config.trainer_arguments import debug_settings
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.record_files import read_record
from attention_lab.tracking.run_directory import SUBMISSION, SWEEP, is_edited
from attention_lab.tracking.run_status import read_status
from attention_lab.tracking.untrusted_files import MalformedRecord, UnreadableRecord, open_file

RECORD_FILES = ("status.json", "config.yaml", "metrics.csv", "result.json", "log.txt")
#: A run that has started has at least one of these files.
STARTED = ("status.json", "metrics.csv", "result.json")
#: The largest value of a metric in single precision; sums of squares of larger ones are infinite.
_LARGEST = 2.0**128


class NotARun(ValueError):
    """A path is neither a run directory nor a sweep directory."""


@dataclass(frozen=True)
class RecordedRun:
    """A run as its directory records it.

    If one of its records cannot be read, its status is "failed". If it is a job of a sweep that has
    not started, its status is "waiting".
    """

    directory: Path
    status: str
    #: Why the run has no result.
    error: str | None
    seed: int | None
    #: None if even the overrides could not be read.
    overrides: tuple[str, ...] | None
    #: ``status.json``: host, times, versions, git revision.
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: ``result.json``; None unless the status is "finished".
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    #: ``sweep.json`` of the sweep that the run is a job of; otherwise empty.
    sweep: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The last two parts of the directory."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @cached_property
    def leaves(self) -> dict[str, str]:
        """The values of the config that may change the result, by dotted key, without seeds.

        The value of a data file or of ``model.init_from`` is the hash of its content, if that is
        recorded, not its path.
        """
        leaves = {
            key: str(value)
            for key, value in material(self.config or {})
            if key.rpartition(".")[2] != "seed"
        }
        for name, hashes in section(self.config, "data_files").items():
            leaves.pop(f"data_files.{name}", None)
            each = hashes if isinstance(hashes, list) else [hashes]
            leaves[f"data.{name}"] = ", ".join(f"SHA-256 {str(digest)[:8]}…" for digest in each)
        if checksum := leaves.pop("init_from.sha256", None):
            leaves["model.init_from"] = f"SHA-256 {checksum[:8]}…"
        return leaves

    @property
    def debug_settings(self) -> list[str]:
        """The settings that leave out batches, so that its results are no results; often none."""
        return debug_settings(self.config)

    @property
    def is_edited(self) -> bool:
        """Whether ``config.yaml`` was edited after the run."""
        return bool(self.config) and is_edited(self.record, self.config)

    def curve(self, column: str) -> dict[int, float]:
        """The finite values of a column of ``metrics.csv`` by step.

        The file is read at each call: all columns of a thousand runs would not fit in memory.
        """
        return read_column(self.directory / "metrics.csv", column)


def read_runs(paths: Iterable[Path]) -> list[RecordedRun]:
    """Read the runs in directories of runs and of sweeps.

    The runs of a sweep are the jobs that its ``sweep.json`` lists, in that order, whether they have
    started or not. Without that file they are its run directories, sorted by number or, if their
    names are not numbers, by start. A run in several of the ``paths`` is read once.

    Raises:
        NotARun: if a path is neither a run nor a sweep.
    """
    runs: dict[Path, RecordedRun] = {}
    for path in paths:
        for run in _runs_at(path.resolve()):
            runs.setdefault(run.directory, run)
    return list(runs.values())


def _runs_at(path: Path) -> list[RecordedRun]:
    if not path.is_dir():
        raise NotARun(f"{path} is not a directory")
    if (path / "status.json").exists():
        return [_read_run(path)]
    sweep = _read_sweep(path)
    if jobs := sweep.get("jobs"):
        return [_read_job(path / job["directory"], job["overrides"], sweep) for job in jobs]
    # A job that failed before it wrote a status is also a run: it must be shown as failed.
    runs = [sub for sub in path.iterdir() if any((sub / name).exists() for name in RECORD_FILES)]
    if not runs:
        raise NotARun(f"{path} is neither a run (no status.json) nor a sweep (no runs in it)")
    return sorted((_read_job(directory, None, {}) for directory in runs), key=_position)


def _read_sweep(path: Path) -> dict[str, Any]:
    """The record of a sweep; empty if there is none or it was cut off."""
    try:
        return read_record(path / SWEEP)
    except (FileNotFoundError, MalformedRecord):
        return {}
    except UnreadableRecord as error:
        raise NotARun(str(error)) from None


def _position(run: RecordedRun) -> tuple[float, str, str]:
    number = re.match(r"\d+", run.directory.name)
    started = str(run.record.get("started"))
    return (float(number[0]) if number else math.inf, started, run.directory.name)


def _read_job(
    directory: Path, overrides: Sequence[str] | None, sweep: Mapping[str, Any]
) -> RecordedRun:
    """A run of a sweep; a link to a directory outside the sweep is not followed.

    Args:
        directory: the run's directory, which may not exist.
        overrides: those that ``sweep.json`` lists; None without that file.
        sweep: the content of ``sweep.json``.
    """
    asked = None if overrides is None else tuple(overrides)
    if directory.resolve().parent != directory.parent:
        error = "is a symbolic link that leads out of the sweep; name the run itself"
        return RecordedRun(directory, "failed", error, _seed(asked, {}), asked, sweep=sweep)
    if any((directory / name).exists() for name in STARTED):
        return _read_run(directory, asked, sweep)
    status, error = _status_without_record(directory, sweep)
    config = read_mapping(directory / "config.yaml", [])
    seed = _seed(asked, config)
    return RecordedRun(directory, status, error, seed, asked, config=config, sweep=sweep)


def _read_run(
    directory: Path, asked: tuple[str, ...] | None = None, sweep: Mapping[str, Any] | None = None
) -> RecordedRun:
    """A run that has started; ``asked`` are the overrides that ``sweep.json`` lists."""
    known, problems = read_status(directory), list[str]()
    record, config = known.record, dict[str, Any]()
    if known.state == "finished" or (directory / "config.yaml").exists():
        config = read_mapping(directory / "config.yaml", problems)
    if known.state == "waiting":
        problems.append("status.json is missing")
    if record and not {"status", "seed", "overrides"} <= record.keys():
        problems.append("status.json lacks the status, the seed or the overrides")
    return RecordedRun(
        directory=directory,
        status="failed" if problems else known.state,
        error="; ".join(problems) or known.error,
        seed=record.get("seed", _seed(asked, config)),
        overrides=tuple(record["overrides"]) if "overrides" in record else asked,
        record=record,
        config=config,
        result=None if problems else known.result,
        sweep=sweep or {},
    )


def _status_without_record(directory: Path, sweep: Mapping[str, Any]) -> tuple[str, str]:
    """The status of a job without a record, and the reason."""
    is_over = not sweep or bool(sweep.get("ended")) or not is_locked(directory.parent)
    is_over &= not (directory / SUBMISSION).exists()  # a SLURM job runs without the sweep's process
    if is_over and (directory / "log.txt").exists():  # a job opens its log before anything else
        return "failed", "status.json is missing: it ended before it could write one; see log.txt"
    return (
        "waiting",
        "the sweep ended before it started" if sweep and is_over else "has not started",
    )


def _seed(overrides: Sequence[str] | None, config: Mapping[str, Any]) -> int | None:
    """The seed of a run without a record, from its overrides or its config."""
    asked = [text.removeprefix("seed=") for text in overrides or () if text.startswith("seed=")]
    seed = asked[-1] if asked else config.get("seed")
    return int(str(seed)) if re.fullmatch(r"-?\d+", str(seed)) else None


def read_mapping(path: Path, problems: list[str]) -> dict[str, Any]:
    """Read a record; if that fails, add a line to ``problems`` and return an empty mapping."""
    try:
        return read_record(path)
    except (FileNotFoundError, NotADirectoryError):
        problems.append(f"{path.name} is missing")
    except UnreadableRecord as error:
        problems.append(f"{path.name} {error.reason}")
    return {}


def csv_rows(path: Path, root: Path | None = None) -> Iterator[list[str]]:
    """The rows of a CSV file, or those before a damaged place; none without a file.

    Args:
        path: the file.
        root: the directory that links must not leave; None means the file's own.
    """
    try:
        with io.TextIOWrapper(
            open_file(path, root), "utf-8", errors="replace", newline="\n"
        ) as file:
            # A line without a line break is being written: its last number may lack digits.
            yield from csv.reader(line for line in file if line.endswith("\n"))
    except (OSError, UnreadableRecord, csv.Error):
        return


def read_column(path: Path, column: str, with_nan: bool = False) -> dict[int, float]:
    """The values of a column of ``metrics.csv`` by step; none if there is no such file.

    Args:
        path: the file.
        column: the name of the column.
        with_nan: whether values that are NaN or infinite are returned, as NaN.
    """
    rows = csv_rows(path)
    header = next(rows, list[str]())
    if not {"step", column} <= set(header):
        return {}
    at_step, place = header.index("step"), header.index(column)
    values = {
        cell_number(row[at_step]): cell_number(row[place])
        for row in rows
        if len(row) > max(at_step, place) and row[place]
    }
    return {
        int(step): value
        for step, value in values.items()
        if not math.isnan(step) and (with_nan or not math.isnan(value))
    }


def cell_number(cell: str) -> float:
    """The number in a cell; NaN if it is none, infinite or too large."""
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if abs(value) <= _LARGEST else math.nan


def number(mapping: Any, *keys: str) -> float | None:
    """The value at a path of keys; None if it is not a finite number."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, Mapping) else None
    is_number = isinstance(mapping, int | float) and not isinstance(mapping, bool)
    return float(mapping) if is_number and abs(mapping) <= _LARGEST else None


def settings(run: RecordedRun) -> dict[str, str]:
    """The overrides of a run by key, without the seed and those that do not change the result."""
    return by_key(run.overrides or ())


def by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides by key, without the seed, Hydra's own and those that do not change the result."""
    pairs = [override.lstrip("+~").partition("=") for override in overrides]
    aside = ("hydra.", "hydra/")
    return {
        key: value
        for key, _, value in pairs
        if key != "seed" and not key.startswith(aside) and not is_immaterial(key)
    }


def section(mapping: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    """The mapping at ``key``; an empty one if there is none."""
    inner = (mapping or {}).get(key)
    return inner if isinstance(inner, Mapping) else {}
