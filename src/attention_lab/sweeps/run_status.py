"""The status of a run, read by another process from its files and its lock."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.record_files import (
    MalformedRecord,
    Status,
    UnreadableRecord,
    read_record,
)

State = Literal["waiting"] | Status
STATES: tuple[State, ...] = ("waiting", *get_args(Status))


@dataclass(frozen=True)
class RunStatus:
    """The status of a run."""

    #: "preempted" also means that its process exited unexpectedly.
    state: State
    error: str | None = None
    #: The latest "step", "steps" and "metrics"; None before training.
    progress: dict[str, Any] | None = None
    #: The content of status.json.
    record: dict[str, Any] = field(default_factory=dict, repr=False)
    #: The monitored validation metric of a run that has finished.
    value: float = float("nan")
    #: The name of that metric.
    monitor: str = ""
    #: "min" or "max": which is best.
    mode: str = ""


def read_status(directory: Path) -> RunStatus:
    """The status of a directory's run; "waiting" if it has not started.

    A run whose record has another schema version counts as failed.
    """
    try:
        return _read_status(directory)
    except UnreadableRecord as error:
        return RunStatus("failed", str(error))


def _read_status(directory: Path) -> RunStatus:
    record = _read(directory / "status.json")
    if record.get("status") == "running" and not is_locked(directory):
        record = _read(directory / "status.json")  # it may have ended in between
        if record.get("status") == "running":
            return RunStatus("preempted", progress=record.get("progress"), record=record)
    state: State = record.get("status", "waiting")
    error, progress = record.get("error"), record.get("progress")
    if state != "finished":
        return RunStatus(state, error, progress, record)
    result = _read(directory / "result.json")
    try:
        monitor, mode = result["monitor"], result["mode"]
        value = float(result["validation"][monitor])
    except (KeyError, TypeError, ValueError):
        return RunStatus("preempted", "result.json is missing or half-written", progress, record)
    return RunStatus(state, error, progress, record, value, monitor, mode)


def _read(path: Path) -> dict[str, Any]:
    """A record that another process writes; empty if there is none."""
    try:
        return read_record(path)
    except (FileNotFoundError, MalformedRecord):
        return {}
