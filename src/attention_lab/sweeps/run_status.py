"""How a run stands, as another process sees it: from its small files, and from its lock."""

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
    """How a run stands."""

    #: A run that nobody is at work on any more although it never ended is "preempted".
    state: State
    error: str | None = None
    #: "step", "steps" and "metrics" of the latest sign of life; None before the first.
    progress: dict[str, Any] | None = None
    #: When it ended and how it began, as status.json has it.
    record: dict[str, Any] = field(default_factory=dict, repr=False)
    #: The monitored validation metric of a run that has finished.
    value: float = float("nan")
    #: Its name.
    monitor: str = ""
    #: Whether "min" or "max" of it is best.
    mode: str = ""


def read_status(directory: Path) -> RunStatus:
    """How the run of a directory stands; one that has not begun is waiting.

    A run whose record has another schema version counts as failed.
    """
    try:
        return _read_status(directory)
    except UnreadableRecord as error:
        return RunStatus("failed", str(error))


def _read_status(directory: Path) -> RunStatus:
    record = _read(directory / "status.json")
    if record.get("status") == "running" and not is_locked(directory):
        record = _read(directory / "status.json")  # between the two looks it may have ended
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
    """A record that another process writes; empty as long as there is none."""
    try:
        return read_record(path)
    except (FileNotFoundError, MalformedRecord):
        return {}
