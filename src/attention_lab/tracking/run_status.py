"""Read the status of a run from its record files and its lock."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.record_files import read_record
from attention_lab.tracking.record_schema import Status
from attention_lab.tracking.run_directory import how_to_resume
from attention_lab.tracking.untrusted_files import MalformedRecord, UnreadableRecord

State = Literal["waiting"] | Status
STATES: tuple[State, ...] = ("waiting", *get_args(Status))
#: The states of runs that have ended and do not resume.
ENDED: tuple[State, ...] = ("finished", "failed", "diverged", "pruned")


@dataclass(frozen=True)
class RunStatus:
    """The status of a run, for sweeps and for reports (see :func:`read_status`)."""

    state: State
    error: str | None = None
    #: "step", "steps" and "metrics" as last recorded; None before the first step.
    progress: dict[str, Any] | None = None
    #: The content of ``status.json``; empty if it cannot be read.
    record: dict[str, Any] = field(default_factory=dict, repr=False)
    #: The monitored validation metric of a finished run, and its name.
    value: float = float("nan")
    monitor: str = ""
    #: Whether "min" or "max" of it is best.
    mode: str = ""
    #: The content of ``result.json`` of a finished run.
    result: dict[str, Any] | None = field(default=None, repr=False)


def read_status(directory: Path) -> RunStatus:
    """The status of the run in a directory.

    - "waiting" if it has no ``status.json``;
    - "preempted" if the same command resumes it: it was interrupted, its process is gone, or a file
      was cut off or is missing, such as the ``result.json`` of a run that is recorded as finished;
    - "failed" also if a file cannot be read for another reason, such as its schema version;
    - else what ``status.json`` says.
    """
    try:
        record = _read(directory / "status.json")
        if record.get("status") == "running" and not is_locked(directory):
            record = _read(directory / "status.json")  # the run may have ended in between
            if record.get("status") == "running":
                process = f"its process, {record.get('pid')}, exited unexpectedly"
                return _preempted(f"{process}; {how_to_resume(directory)}", record)
    except FileNotFoundError:
        return RunStatus("waiting")
    except MalformedRecord as error:
        return _preempted(f"status.json {error.reason}", {})
    except UnreadableRecord as error:
        return RunStatus("failed", f"status.json {error.reason}")
    state: State = record.get("status", "failed")
    if state == "finished":
        return _finished(directory, record)
    return RunStatus(state, record.get("error"), record.get("progress"), record)


def _finished(directory: Path, record: dict[str, Any]) -> RunStatus:
    """The status of a run that is recorded as finished."""
    try:
        result = _read(directory / "result.json")
    except FileNotFoundError:
        return _preempted("result.json is missing", record)
    except MalformedRecord as error:
        return _preempted(f"result.json {error.reason}", record)
    except UnreadableRecord as error:
        return RunStatus("failed", f"result.json {error.reason}", record=record)
    monitor, metrics = result.get("monitor", ""), result.get("validation", {})
    return RunStatus(
        "finished",
        record.get("error"),
        record.get("progress"),
        record,
        float(metrics.get(monitor, "nan")),
        monitor,
        result.get("mode", ""),
        result,
    )


def _preempted(error: str, record: dict[str, Any]) -> RunStatus:
    return RunStatus("preempted", error, record.get("progress"), record)


def _read(path: Path) -> dict[str, Any]:
    """A record; FileNotFoundError also if there is no directory."""
    try:
        return read_record(path)
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from None
