"""A run's directory: the plain files that say what ran, how it stands and what came out."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml

Status = Literal["running", "finished", "failed", "diverged", "preempted"]

VERSIONED = ("attention-lab", "torch", "lightning", "hydra-core", "torchmetrics", "wandb")


class RunExists(ValueError):
    """The directory already holds a run."""


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader finds the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.yaml``, from which the run can be run again.

    The file is itself a Hydra config: its defaults list brings the settings of the launcher.
    """
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    command = "attention-lab train --config-dir RUN_DIRECTORY --config-name config"
    header = f"# To run it again: {command}\ndefaults: [settings, _self_]\n"
    write_atomically(directory / "config.yaml", header + text)


def read_config(directory: Path) -> dict[str, Any]:
    """The config that :func:`write_config` wrote."""
    config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    del config["defaults"]
    return config


class RunRecord:
    """Keeps ``status.json`` true while a run goes on, and writes ``result.json`` at its end.

    Args:
        directory: the run's directory; made if it does not exist.
        seed: the run's seed.
        overrides: what the user asked for, as ``key=value``.

    Raises:
        RunExists: if the directory already holds a run.
    """

    def __init__(self, directory: Path, seed: int, overrides: Sequence[str]) -> None:
        self.directory = directory
        self._status: dict[str, Any] = {
            "status": "running",
            "started": _now(),
            "updated": _now(),
            "finished": None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "seed": seed,
            "overrides": list(overrides),
            "git_revision": _git_revision(),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in VERSIONED},
            "command": " ".join(sys.argv),
            "error": None,
            "progress": None,
        }
        directory.mkdir(parents=True, exist_ok=True)
        try:
            # Exclusive creation: of two runs that name the same directory one is turned away.
            with (directory / "status.json").open("x", encoding="utf-8") as file:
                file.write(self._text())
        except FileExistsError:
            raise RunExists(f"{directory} already holds a run; name another directory") from None

    def progress(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Say how far the run has come."""
        self._status["progress"] = {"step": step, "steps": steps, "metrics": dict(metrics)}
        self._write()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, and only then say that the run has finished."""
        text = json.dumps(result, indent=2) + "\n"
        write_atomically(self.directory / "result.json", text)
        self._end("finished")

    def end(self, status: Status, error: str) -> None:
        """Say that the run ended without a result, and why; one that has its result keeps it."""
        if self._status["status"] == "finished":
            return
        self._status["error"] = error
        self._end(status)

    def _end(self, status: Status) -> None:
        self._status |= {"status": status, "finished": _now()}
        self._write()

    def _write(self) -> None:
        self._status["updated"] = _now()
        write_atomically(self.directory / "status.json", self._text())

    def _text(self) -> str:
        return json.dumps(self._status, indent=2) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _git_revision() -> str | None:
    """The commit of the source tree this package runs from; None if it is installed."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists() or shutil.which("git") is None:
        return None
    answer = subprocess.run(
        ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None
