"""A run's directory: the plain files that say what ran, how it stands and what came out."""

import os
import secrets
import shlex
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from attention_lab.atomic_write import PARTIAL_FILES, write_atomically
from attention_lab.config.identity import differences
from attention_lab.config.identity import identity as identity_of
from attention_lab.data.files.paths import shown
from attention_lab.tracking.code_version import code_version
from attention_lab.tracking.lock import Lock, Locked, is_held
from attention_lab.tracking.record_files import (
    MalformedRecord,
    Status,
    UnreadableRecord,
    json_text,
    link_out,
    read_record,
    with_version,
)

#: The file that says as which SLURM job a run was submitted, if it was.
IN_QUEUE = "slurm.json"
#: The file beside the runs of a sweep that lists them.
SWEEP = "sweep.json"

#: Characters of an error that a record keeps, so that it stays small enough to be read.
LONGEST_ERROR = 10_000


class RunExists(ValueError):
    """The directory already holds a run."""


class _NoAliases(yaml.SafeDumper):
    """Writes out what occurs twice: records hold no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.yaml``, from which the run can be run again."""
    text = yaml.dump(with_version(config), Dumper=_NoAliases, sort_keys=False, allow_unicode=True)
    header = "# To run it again: attention-lab train --from RUN_DIRECTORY\n"
    write_atomically(directory / "config.yaml", header + text)


def read_config(directory: Path) -> dict[str, Any]:
    """The config that :func:`write_config` wrote.

    Raises:
        FileNotFoundError: if there is none.
        UnreadableRecord: if it is of another version, or not safe to read.
    """
    return read_record(directory / "config.yaml")


def is_edited(status: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether ``config.yaml`` differs from the config that ran, by the hash in ``status.json``."""
    ran = status.get("identity")
    return ran is not None and ran != identity_of(config)


class RunRecord:
    """Keeps ``status.json`` true while a run goes on, and writes ``result.json`` at its end.

    A directory takes one run, and one process at a time. A run that has not finished goes on in it
    if it is asked for again. What a sweep leaves for a job that has yet to start is no run.

    Args:
        directory: the run's directory; made if it does not exist.
        config: the run's resolved config, which is written as ``config.yaml``.
        overrides: what the user asked for, as ``key=value``.

    Raises:
        RunExists: if the directory holds a run that has finished, another run, or one at which
            another process is at work.
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any], overrides: Sequence[str]
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(directory)
        try:
            earlier = _unfinished(directory, config)
            #: Whether the run has been begun before.
            self.goes_on = earlier is not None
            _remove_partial_files(directory)
            self._status = _first_status(config, overrides)
            if earlier is not None:
                lasting = ("started", "progress", "wandb_id")
                kept = {name: earlier[name] for name in lasting if name in earlier}
                resumed = [*earlier.get("resumed", []), self._status["started"]]
                _warn_of_versions(directory, earlier, self._status)
                self._status |= kept | {"resumed": resumed}
            write_config(directory, config)  # first: who finds a status will find a config
            self._write({})
            self._lock.sign()
        except BaseException:
            self.close()
            raise

    @property
    def wandb_id(self) -> str:
        """By which W&B knows the run, if it is told of it."""
        identifier: str = self._status["wandb_id"]
        return identifier

    def close(self) -> None:
        """Let go of the directory; the end of the process does it, too."""
        self._lock.release()

    def progress(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Say how far the run has come."""
        progress = {"step": step, "steps": steps, "metrics": dict(metrics)}
        self._write({"progress": progress}, durable=False)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, and only then say that the run has finished."""
        write_atomically(self.directory / "result.json", json_text(result))
        self._end("finished")

    @property
    def has_finished(self) -> bool:
        """Whether the run has its result."""
        return bool(self._status["status"] == "finished")

    def end(self, status: Status, error: str) -> None:
        """Say that the run ended without a result, and why; of several ends the first counts."""
        if self._status["status"] != "running":
            return
        self._end(status, error=error[:LONGEST_ERROR])

    def _end(self, status: Status, **more: str) -> None:
        self._write({"status": status, "finished": _now(), **more})

    def _write(self, changes: Mapping[str, Any], durable: bool = True) -> None:
        status = {**self._status, **changes, "updated": _now()}
        write_atomically(self.directory / "status.json", json_text(status), durable)
        self._status = status  # a signal may raise before, and then the run has not finished


def _remove_partial_files(directory: Path) -> None:
    """Remove what a killed process had written in part."""
    for folder in (directory, directory / "checkpoints", directory / "attention"):
        for partial in folder.glob(PARTIAL_FILES):
            partial.unlink()


def goes_on(directory: Path, config: Mapping[str, Any]) -> bool:
    """Whether a run would go on in a directory, as :class:`RunRecord` has it; nothing is written.

    Raises:
        RunExists: as there.
    """
    if is_held(directory):
        _lock(directory).release()
    return _unfinished(directory, config) is not None


def how_to_go_on(directory: Path) -> str:
    """What lets a run go on that was cut off, in a few words."""
    if (directory.parent / SWEEP).exists():
        return "the same command goes on"
    return f"the same command with hydra.run.dir={shlex.quote(shown(directory))} goes on"


def _lock(directory: Path) -> Lock:
    try:
        return Lock(directory)
    except Locked as error:
        raise RunExists(f"{directory}: {error}") from None


def command_line() -> str:
    """The command that this process was started with, as it can be typed into a shell."""
    return " ".join([sys.argv[0], *map(shlex.quote, sys.argv[1:])])


def record_death(
    directory: Path,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    error: str,
    state: Status = "failed",
    patience: float = 0.5,
) -> None:
    """Say of a run whose process is gone without a word that it failed, and why.

    One that has its result already has been interrupted, and will soon have finished; one that has
    finished stays so. Nothing is written if another process has the run locked.

    Args:
        directory: the run's directory.
        config: its config.
        overrides: what it was asked for.
        error: why it is gone.
        state: "preempted" where that is no fault of the run's own.
        patience: seconds to wait for whoever is at work on it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        lock = Lock(directory, patience)
    except Locked:
        return
    try:
        status = read_record(directory / "status.json")
    except (FileNotFoundError, MalformedRecord):
        status = _first_status(config, overrides) | {"pid": None}
    except UnreadableRecord:  # as one of another version: it is not ours to change
        lock.release()
        return
    if status.get("status") != "finished":  # as one that died while a logger was uploading
        has_result = (directory / "result.json").exists()
        state = "preempted" if has_result else state
        status |= {"status": state, "error": error[:LONGEST_ERROR], "finished": _now()}
        write_atomically(directory / "status.json", json_text(status))
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
        "wandb_id": secrets.token_hex(4),
        **code_version(),
        "command": command_line(),
        "error": None,
        "progress": None,
    }


def _warn_of_versions(directory: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn if other code goes on than has begun: it may compute something else."""
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
        message = f"{directory} was begun with other code ({'; '.join(changed)})"
        warnings.warn(f"{message}, so it may not end as it would have", stacklevel=3)


def _unfinished(directory: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The status of a run of this config that has been begun here; None if there is no run.

    Raises:
        RunExists: if there is a run that has finished, or one of another config.
    """
    _refuse_links(directory)
    try:
        status = read_record(directory / "status.json")
    except FileNotFoundError:
        return None
    except MalformedRecord:  # from when it was not yet written durably
        status = {}
    except UnreadableRecord as error:
        raise RunExists(f"{error}; name another directory") from None
    try:
        known = read_config(directory)
    except FileNotFoundError:  # nothing has been trained
        return None
    except UnreadableRecord as error:
        raise RunExists(f"{error}; name another directory") from None
    if status.get("status") == "finished" and _is_whole(directory / "result.json"):
        raise RunExists(f"{directory} holds a run that has finished; name another directory")
    if identity_of(known) != identity_of(config):
        different = "; ".join(differences(known, config))
        raise RunExists(f"{directory} holds another run ({different}); name another directory")
    return status


def _refuse_links(directory: Path) -> None:
    """Raise RunExists if a run would write through a link to elsewhere, or read through one."""
    if (path := link_out(directory, without="wandb")) is not None:  # W&B has links of its own
        raise RunExists(
            f"{path} is a symbolic link that leads out of {directory}; copy what it leads to, or "
            "name another directory"
        )


def _is_whole(path: Path) -> bool:
    """Whether a record is there, and was written to its end."""
    try:
        read_record(path)
    except (FileNotFoundError, MalformedRecord):
        return False
    except UnreadableRecord as error:
        raise RunExists(f"{error}; name another directory") from None
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
