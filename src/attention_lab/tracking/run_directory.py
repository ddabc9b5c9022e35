"""A run directory: the files that record the config, the status and the result of a run."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import yaml

from attention_lab.atomic_write import PARTIAL_FILES, write_atomically
from attention_lab.config.identity import differences
from attention_lab.config.identity import identity as identity_of
from attention_lab.config.trainer_arguments import debug_settings
from attention_lab.data.files.paths import shown
from attention_lab.printing import echo
from attention_lab.tracking.code_version import code_version
from attention_lab.tracking.lock import Lock, Locked, is_locked
from attention_lab.tracking.prune_request import end_request
from attention_lab.tracking.record_files import json_text, read_record, with_version
from attention_lab.tracking.record_schema import RunResult, Status
from attention_lab.tracking.untrusted_files import (
    MalformedRecord,
    UnreadableRecord,
    link_leading_out,
    read_bytes,
)
from attention_lab.tracking.wandb_settings import new_run_id

if TYPE_CHECKING:
    from attention_lab.config.resolve import RunSpec

#: The file with the SLURM job of a run, in the run directory.
SUBMISSION = "slurm.json"
#: The file that lists the jobs of a sweep, in the sweep directory.
SWEEP = "sweep.json"

#: The error of a run that stopped because the disk was full.
DISK_FULL = "no room left on the disk"
#: The most characters of an error in a record.
LONGEST_ERROR = 10_000


class RunExists(ValueError):
    """The directory already holds a run."""


class _NoAliases(yaml.SafeDumper):
    """A YAML dumper that repeats an object instead of writing an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.yaml``, from which ``attention-lab train --from`` repeats the run.

    A file with this content is not replaced: a sweep has written the configs of its jobs before
    they start.
    """
    text = yaml.dump(with_version(config), Dumper=_NoAliases, sort_keys=False, allow_unicode=True)
    header = "# To run it again: attention-lab train --from RUN_DIRECTORY\n"
    path = directory / "config.yaml"
    with suppress(OSError, UnreadableRecord):
        if read_bytes(path) == (header + text).encode():
            return
    write_atomically(path, header + text)


def read_config(directory: Path) -> dict[str, Any]:
    """Read ``config.yaml``.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableRecord: if it is of another version, or cannot be read safely.
    """
    return read_record(directory / "config.yaml")


def is_edited(status: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether ``config.yaml`` was edited after the run, by the hash in ``status.json``."""
    ran = status.get("identity")
    return ran is not None and ran != identity_of(config)


class RunRecord:
    """Keeps ``status.json`` up to date while a run trains, and writes ``result.json`` at its end.

    A directory holds one run. The record locks the directory, so that only one process trains the
    run. If the directory holds a run that has not finished, the record resumes it. As a context
    manager, the record maps the exception that ends the run to a status (see :meth:`end`).

    Args:
        spec: the run; its directory is created if it does not exist.

    Raises:
        RunExists: if the directory holds a finished run or a run of another config, or is locked.
    """

    def __init__(self, spec: RunSpec) -> None:
        self.directory = directory = spec.directory
        config = spec.config.record
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(directory)
        #: The content of ``result.json``; None before the run has finished.
        self.result: RunResult | None = None
        try:
            earlier = _unfinished(directory, config)
            #: Whether the run was started before.
            self.is_resumed = earlier is not None
            _remove_partial_files(directory)
            self._status = _first_status(config, spec.overrides)
            if earlier is not None:
                lasting = ("started", "progress", "wandb_id", "logger_ids")
                kept = {name: earlier[name] for name in lasting if name in earlier}
                resumed = [*earlier.get("resumed", []), self._status["started"]]
                _warn_of_versions(directory, earlier, self._status)
                self._status |= kept | {"resumed": resumed}
            write_config(directory, config)  # first: a run with a status must have a config
            self._write({})
            self._lock.write_owner()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Record an exception and unlock the directory.

        An interruption after the run has finished, while a logger uploads, is reported but not
        raised.
        """
        try:
            if error is not None:
                self.end(error)
        finally:
            self.close()
        is_late = self.has_finished and isinstance(error, KeyboardInterrupt | SystemExit)
        if is_late:
            from attention_lab.tracking.wandb_logger import upload_later  # imports Lightning

            name = str(error) if hasattr(error, "run_status") else "SIGINT"
            problem = f"{name}: the run has finished, but the upload may be incomplete"
            echo(f"attention-lab: {problem}. {upload_later(self.directory)}", error=True)
        return is_late

    @property
    def wandb_id(self) -> str:
        """The id of the W&B run."""
        identifier: str = self._status["wandb_id"]
        return identifier

    @property
    def logger_ids(self) -> dict[str, str]:
        """The ids that services have for the run, by the loggers' names."""
        return {**self._status.get("logger_ids", {}), "wandb": self.wandb_id}

    def keep_logger_ids(self, ids: Mapping[str, str]) -> None:
        """Record the ids with which a resumed run continues in the services of its loggers."""
        if ids:
            self._write({"logger_ids": dict(ids)})

    def close(self) -> None:
        """Unlock the directory; this also happens when the process ends."""
        self._lock.release()

    def progress(self, step: int, steps: int, metrics: Mapping[str, float], mode: str) -> None:
        """Record the latest step and validation metrics, and whether "min" or "max" is best."""
        progress = {"step": step, "steps": steps, "metrics": dict(metrics), "mode": mode}
        self._write({"progress": progress}, durable=False)

    def finish(self, result: RunResult) -> None:
        """Write the result, then the status "finished"."""
        write_atomically(self.directory / "result.json", json_text(result))
        self.result = result
        self._end("finished")

    @property
    def has_finished(self) -> bool:
        """Whether the run has its result."""
        return bool(self._status["status"] == "finished")

    def end(self, error: BaseException) -> None:
        """Record the exception that ended the run; only the first one is recorded.

        The status is "preempted" if the run can be resumed: after an interruption, or when the disk
        is full. Other exceptions mean "failed", unless they have an attribute ``run_status``.
        """
        if self._status["status"] == "running":
            status, reason = _status_of(error)
            self._end(status, error=reason[:LONGEST_ERROR])

    def _end(self, status: Status, **more: str) -> None:
        self._write({"status": status, "finished": _now(), **more})
        if status in ("finished", "pruned"):
            end_request(self.directory)

    def _write(self, changes: Mapping[str, Any], durable: bool = True) -> None:
        status = {**self._status, **changes, "updated": _now()}
        write_atomically(self.directory / "status.json", json_text(status), durable)
        self._status = status  # only after the write, which a signal may interrupt


def _remove_partial_files(directory: Path) -> None:
    """Remove the temporary files of a killed process."""
    for folder in (directory, directory / "checkpoints", directory / "attention"):
        for partial in folder.glob(PARTIAL_FILES):
            partial.unlink()


def _status_of(error: BaseException) -> tuple[Status, str]:
    """The status of a run that an exception ended, and the reason to record."""
    status: Status | None = getattr(error, "run_status", None)
    if status is not None:
        return status, str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "preempted", "interrupted"
    if caused_by(error, _is_disk_full):
        return "preempted", DISK_FULL
    return "failed", f"{type(error).__name__}: {error}"


def caused_by(error: BaseException | None, is_cause: Callable[[BaseException], bool]) -> bool:
    """Whether ``is_cause`` is true of an exception or of one in its chain of contexts."""
    while error is not None:
        if is_cause(error):
            return True
        error = error.__context__
    return False


def _is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def will_resume(spec: RunSpec) -> bool:
    """Whether :class:`RunRecord` would resume a run; nothing is written.

    Raises:
        RunExists: if :class:`RunRecord` would raise it.
    """
    if is_locked(spec.directory):
        _lock(spec.directory).release()
    return _unfinished(spec.directory, spec.config.record) is not None


def how_to_resume(directory: Path) -> str:
    """How to resume a run that was cut off, as the end of a message."""
    if (directory.parent / SWEEP).exists():
        return "the same command resumes it"
    return f"the same command with hydra.run.dir={shlex.quote(shown(directory))} resumes it"


def _lock(directory: Path) -> Lock:
    try:
        return Lock(directory)
    except Locked as error:
        raise RunExists(f"{directory}: {error}") from None


def command_line() -> str:
    """The command of this process, quoted for a shell."""
    return " ".join([sys.argv[0], *map(shlex.quote, sys.argv[1:])])


def record_failure(
    spec: RunSpec, error: str, status: Status = "failed", patience: float = 0.5
) -> None:
    """Record that the process of a run exited without recording it.

    A run that has a result but was not recorded as finished becomes "preempted": resuming it takes
    seconds. Nothing is written if the run has finished or another process has locked it.

    Args:
        spec: the run.
        error: the reason.
        status: "preempted" if the cause is outside the run.
        patience: seconds to wait for the lock.
    """
    directory = spec.directory
    directory.mkdir(parents=True, exist_ok=True)
    try:
        lock = Lock(directory, patience)
    except Locked:
        return
    try:
        record = read_record(directory / "status.json")
    except (FileNotFoundError, MalformedRecord):
        record = _first_status(spec.config.record, spec.overrides) | {"pid": None}
    except UnreadableRecord:  # a record of another version must not be changed
        lock.release()
        return
    if record.get("status") != "finished":
        if (directory / "result.json").exists():
            status = "preempted"
        record |= {"status": status, "error": error[:LONGEST_ERROR], "finished": _now()}
        write_atomically(directory / "status.json", json_text(record))
    lock.release()


def _first_status(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    now = _now()
    return {
        "status": "running",
        "identity": identity_of(config),
        "started": now,
        "resumed": [],
        "updated": now,
        "finished": None,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "seed": config["seed"],
        "overrides": list(overrides),
        "debug": debug_settings(config),
        "wandb_id": new_run_id(),
        **code_version(),
        "command": command_line(),
        "error": None,
        "progress": None,
    }


def _warn_of_versions(directory: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn if the code has changed since the run was started, which may change its result."""
    before, today = (
        {"source": status.get("git_revision"), **status["versions"]}
        for status in (then if "versions" in then else now, now)
    )
    changed = [
        f"{name} was {before[name]}, is {today.get(name)}"
        for name in before
        if before[name] != today.get(name)
    ]
    if changed:
        message = f"{directory} was started with other code ({'; '.join(changed)})"
        warnings.warn(f"{message}: its result may differ from that of either version", stacklevel=3)


def _unfinished(directory: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The status of an unfinished run of this config in a directory; None if there is no run.

    Raises:
        RunExists: if the directory holds a finished run, or a run of another config.
    """
    _refuse_links(directory)
    status: dict[str, Any] = {}
    try:
        with suppress(MalformedRecord):  # a power failure before it was flushed to disk
            status = read_record(directory / "status.json")
        known = read_config(directory)
        has_finished = status.get("status") == "finished" and _is_whole(directory / "result.json")
    except FileNotFoundError:  # there is no run, or it was killed before it trained
        return None
    except UnreadableRecord as error:
        raise RunExists(f"{error}; name another directory") from None
    if has_finished:
        raise RunExists(f"{directory} holds a run that has finished; name another directory")
    if identity_of(known) != identity_of(config):
        different = "; ".join(differences(known, config))
        raise RunExists(f"{directory} holds another run ({different}); name another directory")
    return status


def _refuse_links(directory: Path) -> None:
    """Raise RunExists if a symbolic link leads out of the directory."""
    if (path := link_leading_out(directory, skip="wandb")) is not None:  # W&B creates links there
        raise RunExists(
            f"{path} is a symbolic link that leads out of {directory}; copy what it leads to, or "
            "name another directory"
        )


def _is_whole(path: Path) -> bool:
    """Whether a record exists and is complete."""
    try:
        read_record(path)
    except (FileNotFoundError, MalformedRecord):
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
