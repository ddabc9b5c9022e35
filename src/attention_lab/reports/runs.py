"""Run directories, read back as they lie on disk: what ran, how it ended, what came out."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from attention_lab.config.flatten import flatten
from attention_lab.config.identity import is_immaterial
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.record_files import (
    MalformedRecord,
    UnreadableRecord,
    open_file,
    read_record,
)
from attention_lab.tracking.run_directory import (
    IN_QUEUE,
    SWEEP,
    is_edited,
)
from attention_lab.tracking.run_status import read_status

RECORD_FILES = ("status.json", "config.yaml", "metrics.csv", "result.json", "log.txt")
#: No metric in single precision is larger; far beyond, sums of squares are infinite.
_LARGEST = 2.0**128
#: Of a run that has begun there is at least one of these.
BEGUN = ("status.json", "metrics.csv", "result.json")


class NotARun(ValueError):
    """A path that is neither a run directory nor a sweep directory."""


@dataclass(frozen=True)
class Run:
    """One run directory as it lies on disk.

    A run whose record cannot be read, or whose process died, has the status "failed" and says why
    in ``error``. A job of a sweep that has not begun has the status "waiting".
    """

    directory: Path
    name: str
    status: str
    error: str | None
    seed: int | None
    #: None where not even the overrides could be read.
    overrides: tuple[str, ...] | None
    #: ``status.json``: host, times, versions, git revision.
    record: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    #: ``result.json``; None unless the status is "finished".
    result: Mapping[str, Any] | None = field(repr=False)
    #: ``sweep.json`` of the sweep that the run is a job of; empty where there is none.
    sweep: Mapping[str, Any] = field(repr=False)

    @cached_property
    def leaves(self) -> dict[str, str]:
        """The config's values by dotted key, without those that do not change what is computed.

        A data file's value is the hash of its content, where that is recorded, and not its path.
        """
        leaves = {
            key: str(value)
            for key, value in flatten(self.config)
            if key.rpartition(".")[2] != "seed" and not is_immaterial(key)
        }
        files = section(self.config, "data_files")
        for name, hashes in files.items():
            leaves.pop(f"data_files.{name}", None)
            each = hashes if isinstance(hashes, list) else [hashes]
            leaves[f"data.{name}"] = ", ".join(f"SHA-256 {str(digest)[:8]}…" for digest in each)
        return leaves

    @property
    def is_edited(self) -> bool:
        """Whether ``config.yaml`` was edited after the run."""
        return bool(self.config) and is_edited(self.record, self.config)

    def curve(self, column: str) -> dict[int, float]:
        """A column of ``metrics.csv`` by step, where it holds a finite number.

        Read anew at each call: all columns of a thousand runs would not fit in memory.
        """
        return _column(self.directory / "metrics.csv", column)


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs of all ``paths``, each a run directory or a sweep directory of them.

    The runs of a sweep are the jobs that its ``sweep.json`` lists, begun or not, in that order.
    Without that file they are the run directories in it, in the order of their numbers, or in that
    of their starts where their names are no numbers. A run that is reached twice is read once.

    Raises:
        NotARun: for a path that is neither.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        for run in _runs_at(path.resolve()):
            runs.setdefault(run.directory, run)
    return list(runs.values())


def _runs_at(path: Path) -> list[Run]:
    if not path.is_dir():
        raise NotARun(f"{path} is no directory")
    if (path / "status.json").exists():
        return [_read_run(path)]
    sweep = _read_sweep(path)
    if jobs := _jobs(sweep):
        return [_read_job(path / name, overrides, sweep) for name, overrides in jobs.items()]
    # A job that died before its first status is a run as well: it must show up as failed.
    runs = [sub for sub in path.iterdir() if any((sub / name).exists() for name in RECORD_FILES)]
    if not runs:
        raise NotARun(f"{path} is neither a run (no status.json) nor a sweep (no runs in it)")
    return sorted((_read_job(directory) for directory in runs), key=_position)


def _read_sweep(path: Path) -> dict[str, Any]:
    """The record of a sweep; empty where there is none, or one that was cut off."""
    try:
        return read_record(path / SWEEP)
    except (FileNotFoundError, MalformedRecord):
        return {}
    except UnreadableRecord as error:
        raise NotARun(str(error)) from None


def _jobs(sweep: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The overrides of each job of a ``sweep.json`` by the name of its directory."""
    jobs = sweep.get("jobs")
    listed = [job for job in jobs if isinstance(job, Mapping)] if isinstance(jobs, list) else []
    found: dict[str, Sequence[str]] = {}
    for job in listed:
        name, overrides = job.get("directory"), job.get("overrides")
        if isinstance(name, str) and name and Path(name).name == name:
            found[name] = list(map(str, overrides)) if isinstance(overrides, list) else []
    return found


def _position(run: Run) -> tuple[float, str, str]:
    number = re.match(r"\d+", run.directory.name)
    started = str(run.record.get("started"))
    return (float(number[0]) if number else math.inf, started, run.directory.name)


def _read_job(
    directory: Path, asked: Sequence[str] | None = None, sweep: Mapping[str, Any] | None = None
) -> Run:
    """A run of a sweep, unless a link in the sweep leads to one elsewhere."""
    if directory.resolve().parent == directory.parent:
        return _read_run(directory, asked, sweep)
    return Run(
        directory=directory,
        name=_name(directory),
        status="failed",
        error="is a symbolic link that leads out of the sweep; name the run itself",
        seed=_seed(asked or [], {}),
        overrides=None if asked is None else tuple(asked),
        record={},
        config={},
        result=None,
        sweep=sweep or {},
    )


def _read_run(
    directory: Path, asked: Sequence[str] | None = None, sweep: Mapping[str, Any] | None = None
) -> Run:
    """One run.

    Args:
        directory: the run's, which need not exist.
        asked: the overrides by which the sweep lists it.
        sweep: the record of the sweep.
    """
    if not any((directory / name).exists() for name in BEGUN):
        return _run_without_record(directory, asked, sweep or {})
    known, problems = read_status(directory), list[str]()
    record, config, state = known.record, dict[str, Any](), known.state
    seed, overrides = record.get("seed"), record.get("overrides")
    if state == "finished" or (directory / "config.yaml").exists():
        config = read_mapping(directory / "config.yaml", problems)
    if state == "waiting":
        problems.append("status.json is missing")
    if record and not (
        "status" in record and isinstance(seed, int) and isinstance(overrides, list)
    ):
        problems.append("status.json lacks the status, the seed or the overrides")
    if not isinstance(overrides, list):
        overrides = asked
    return Run(
        directory=directory,
        name=_name(directory),
        status="failed" if problems else state,
        error="; ".join(problems) or known.error,
        seed=seed if isinstance(seed, int) else _seed(asked or [], config),
        overrides=None if overrides is None else tuple(map(str, overrides)),
        record=record,
        config=config,
        result=None if problems else known.result,
        sweep=sweep or {},
    )


def _run_without_record(
    directory: Path, asked: Sequence[str] | None, sweep: Mapping[str, Any]
) -> Run:
    """A job that has not begun, or that ended before it could say so."""
    is_over = not sweep or bool(sweep.get("ended")) or not is_locked(directory.parent)
    is_over &= not (directory / IN_QUEUE).exists()  # SLURM's jobs need no command that waits
    # The job's process opens its log first of all.
    has_failed = is_over and (directory / "log.txt").exists()
    if has_failed:
        reason = "status.json is missing: it ended before it could write one; see log.txt"
    else:
        reason = "the sweep ended before it" if sweep and is_over else "has not started"
    config = read_mapping(directory / "config.yaml", [])
    return Run(
        directory=directory,
        name=_name(directory),
        status="failed" if has_failed else "waiting",
        error=reason,
        seed=_seed(asked or [], config),
        overrides=None if asked is None else tuple(asked),
        record={},
        config=config,
        result=None,
        sweep=sweep,
    )


def _name(directory: Path) -> str:
    return f"{directory.parent.name}/{directory.name}"


def _seed(overrides: Sequence[str], config: Mapping[str, Any]) -> int | None:
    """The seed of a run without a record, as its overrides or its config have it."""
    asked = [value for key, _, value in (o.partition("=") for o in overrides) if key == "seed"]
    seed = asked[-1] if asked else config.get("seed")
    return int(str(seed)) if re.fullmatch(r"-?\d+", str(seed)) else None


def read_mapping(path: Path, problems: list[str]) -> dict[str, Any]:
    """The record that a file holds; an empty one, and a line in ``problems``, if it holds none."""
    try:
        return read_record(path)
    except (FileNotFoundError, NotADirectoryError):
        problems.append(f"{path.name} is missing")
    except UnreadableRecord as error:
        problems.append(f"{path.name} {error.reason}")
    return {}


def _column(path: Path, column: str) -> dict[int, float]:
    values = {}
    try:
        with io.TextIOWrapper(open_file(path), "utf-8", errors="replace", newline="\n") as file:
            # A line without its end is still being written: its last number may lack digits.
            rows = csv.reader(line for line in file if line.endswith("\n"))
            header = next(rows, [])
            if not {"step", column} <= set(header):
                return {}
            step, place = header.index("step"), header.index(column)
            for row in rows:
                if len(row) > max(step, place) and row[place]:
                    values[_number(row[step])] = _number(row[place])
    except (OSError, UnreadableRecord, csv.Error):
        pass  # what was whole counts
    return {
        int(step): value
        for step, value in values.items()
        if math.isfinite(step) and abs(value) <= _LARGEST
    }


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def number(mapping: Any, *keys: str) -> float | None:
    """The number that the nested ``keys`` lead to; None if it is none, or NaN or infinite."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, Mapping) else None
    is_number = isinstance(mapping, int | float) and not isinstance(mapping, bool)
    return float(mapping) if is_number and abs(mapping) <= _LARGEST else None


def settings(run: Run) -> dict[str, str]:
    """The overrides of a run by key, as :func:`by_key` has them."""
    return by_key(run.overrides or ())


def by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides by key, without the seed, Hydra's own and those that change no result."""
    pairs = [override.lstrip("+~").partition("=") for override in overrides]
    aside = ("hydra.", "hydra/")
    return {
        key: value
        for key, _, value in pairs
        if key != "seed" and not key.startswith(aside) and not is_immaterial(key)
    }


def section(mapping: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    """The mapping under ``key``; an empty one where there is none."""
    inner = (mapping or {}).get(key)
    return inner if isinstance(inner, Mapping) else {}
