"""Run directories, read back: what ran, how it ended, and how its groups compare over seeds."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

RECORD_FILES = ("status.json", "config.yaml", "metrics.csv", "result.json", "log.txt")


class NotARun(ValueError):
    """A path that is neither a run directory nor a sweep directory."""


@dataclass(frozen=True)
class Run:
    """One run directory as it lies on disk.

    A run whose record cannot be read, or whose process died, has the status "failed" and says why
    in ``error``.
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
    #: The rows of ``metrics.csv``, without the cells that hold no finite number.
    metrics: list[dict[str, float]] = field(repr=False)


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs of all ``paths``, each a run directory or a sweep directory of them.

    The runs of a sweep come in the order of their numbers, or in that of their starts where their
    names are no numbers. A run that is reached twice is read once.

    Raises:
        NotARun: for a path that is neither.
    """
    directories: dict[Path, None] = {}
    for path in paths:
        directories.update(dict.fromkeys(_run_directories(path)))
    return [_read_run(directory) for directory in directories]


def _run_directories(path: Path) -> list[Path]:
    path = path.resolve()
    if not path.is_dir():
        raise NotARun(f"{path} is no directory")
    if (path / "status.json").exists():
        return [path]
    # A job that died before its first status is a run as well: it must show up as failed.
    runs = [sub for sub in path.iterdir() if any((sub / name).exists() for name in RECORD_FILES)]
    if not runs:
        raise NotARun(f"{path} is neither a run (no status.json) nor a sweep (no runs in it)")
    return sorted(runs, key=_position)


def _position(directory: Path) -> tuple[float, str, str]:
    number = re.match(r"\d+", directory.name)
    started = _mapping(directory / "status.json", json.loads, []).get("started")
    return (float(number[0]) if number else math.inf, str(started), directory.name)


def _read_run(directory: Path) -> Run:
    problems: list[str] = []
    record = _mapping(directory / "status.json", json.loads, problems)
    status, seed, overrides = (record.get(key) for key in ("status", "seed", "overrides"))
    config, result = {}, None
    if status == "finished":
        result = _mapping(directory / "result.json", json.loads, problems)
    if status == "finished" or (directory / "config.yaml").exists():
        config = _mapping(directory / "config.yaml", yaml.safe_load, problems)
    if record and not (status and isinstance(seed, int) and isinstance(overrides, list)):
        problems.append("status.json lacks the status, the seed or the overrides")
    if _is_dead(record):
        problems.append(f"died without a word (process {record['pid']} is gone)")
    return Run(
        directory=directory,
        name=f"{directory.parent.name}/{directory.name}",
        status="failed" if problems else str(status),
        error="; ".join(problems) or record.get("error"),
        seed=seed if isinstance(seed, int) else None,
        overrides=tuple(map(str, overrides)) if isinstance(overrides, list) else None,
        record=record,
        config=config,
        result=None if problems else result,
        metrics=_metric_rows(directory / "metrics.csv"),
    )


def _mapping(path: Path, parse: Callable[[str], Any], problems: list[str]) -> dict[str, Any]:
    """The mapping that a file holds; an empty one, and a line in ``problems``, if it holds none."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except (OSError, ValueError, yaml.YAMLError):
        problems.append(f"{path.name} is unreadable or half-written")
    else:
        if isinstance(content, dict):
            return content
        problems.append(f"{path.name} holds no mapping")
    return {}


def _metric_rows(path: Path) -> list[dict[str, float]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # A line without its end is still being written: its last number may lack digits.
    complete = text.split("\n")[:-1]
    return [_finite(row) for row in csv.DictReader(complete)]


def _finite(row: Mapping[str | None, Any]) -> dict[str, float]:
    numbers = {}
    for name, cell in row.items():
        with suppress(TypeError, ValueError):
            numbers[str(name)] = float(cell)
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _is_dead(record: Mapping[str, Any]) -> bool:
    """Whether a run that calls itself running has lost its process. Only known on its own host."""
    if record.get("status") != "running" or record.get("host") != socket.gethostname():
        return False
    pid = record.get("pid")
    if not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)  # signal 0 only asks whether there is such a process
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False  # it lives, as somebody else's
    return False


def number(mapping: Any, *keys: str) -> float | None:
    """The finite number that the nested ``keys`` lead to; None where there is none."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, Mapping) else None
    is_number = isinstance(mapping, int | float) and not isinstance(mapping, bool)
    return float(mapping) if is_number and math.isfinite(mapping) else None


def settings(run: Run) -> dict[str, str]:
    """The overrides of a run by key, without its seed and without Hydra's own."""
    pairs = [override.lstrip("+~").partition("=") for override in run.overrides or ()]
    return {k: v for k, _, v in pairs if k != "seed" and not k.startswith(("hydra.", "hydra/"))}


def section(mapping: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    """The mapping under ``key``; an empty one where there is none."""
    inner = (mapping or {}).get(key)
    return inner if isinstance(inner, Mapping) else {}
