"""The files that W&B's client writes offline, and a user without a W&B login."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from attention_lab.tracking.wandb_history import records


def forget_login(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Makes this process one of a user without W&B settings."""
    for name in list(os.environ):
        if name.startswith("WANDB_") and name != "WANDB_SERVICE":
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    patch.delenv("NETRC", raising=False)


class Stored(NamedTuple):
    """The content of an offline W&B run, as `wandb sync` would upload it."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int

    def curve(self, name: str) -> list[tuple[int, Any]]:
        """The steps and values of one metric."""
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]


def nested(items: Any) -> dict[str, Any]:
    """The values of history items, each of which names its place in nested mappings."""
    values: dict[str, Any] = {}
    for item in items:
        *branch, last = list(item.nested_key) or [item.key]
        inside = values
        for key in branch:
            inside = inside.setdefault(key, {})
        inside[last] = json.loads(item.value_json)
    return values


def stored(directory: Path) -> Stored:
    """The one W&B run in a run's directory."""
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    return content(file)


def content(file: Path) -> Stored:
    """The W&B run in a .wandb file."""
    run, config, history, summary, exit_codes = None, {}, [], {}, []
    for record in records(file):
        if record.HasField("run"):
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif record.HasField("config"):
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif record.HasField("history"):
            history.append(nested(record.history.item))
        elif record.HasField("summary"):
            summary |= nested(record.summary.update)
        elif record.HasField("exit"):
            exit_codes.append(record.exit.exit_code)
    (exit_code,) = exit_codes
    return Stored(run, config, history, summary, exit_code)


def when_written(place: Path, read: Callable[[Path], Stored] = stored) -> Stored:
    """The content of a W&B run, after its service has finished writing."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return read(place)
        except ValueError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
