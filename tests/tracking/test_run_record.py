"""The status of a run and its result, from its start to its end."""

import errno
import json
import os
import shlex
import socket
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from attention_lab.config.identity import identity
from attention_lab.tracking import code_version, run_directory
from attention_lab.tracking.run_directory import (
    DISK_FULL,
    RunRecord,
    read_config,
    record_failure,
)
from tests.runs import Stopped, unchecked
from tests.tracking.run_files import CONFIG, read_status


def seconds_ago(moment: str) -> float:
    """The time since a moment, which must have a time zone."""
    then = datetime.fromisoformat(moment)
    assert then.utcoffset() == timedelta(0)
    return (datetime.now(UTC) - then).total_seconds()


@pytest.mark.parametrize(("sweep", "is_given"), [("abc", True), (None, False)])
def test_a_run_of_a_wandb_agent_has_the_id_from_the_agent(
    sweep: str | None, is_given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "1a2b3c4d")
    if sweep:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    RunRecord(unchecked(CONFIG, tmp_path / "run"))
    assert (read_status(tmp_path / "run")["wandb_id"] == "1a2b3c4d") is is_given


def test_a_record_begins_as_running(tmp_path: Path) -> None:
    directory = tmp_path / "sweep" / "run"
    RunRecord(unchecked(CONFIG | {"seed": 7}, directory, ["attention=additive", "seed=7"]))
    status = read_status(directory)
    assert status.keys() == {
        "schema_version",
        "status",
        "identity",
        "started",
        "resumed",
        "updated",
        "finished",
        "pid",
        "host",
        "seed",
        "overrides",
        "wandb_id",
        "git_revision",
        "versions",
        "command",
        "debug",
        "error",
        "progress",
    }
    assert status["status"] == "running"
    assert (status["finished"], status["error"], status["progress"]) == (None, None, None)
    assert (status["seed"], status["overrides"]) == (7, ["attention=additive", "seed=7"])
    assert (status["pid"], status["host"]) == (os.getpid(), socket.gethostname())
    assert shlex.split(status["command"]) == sys.argv
    assert -1 < seconds_ago(status["started"]) < 60
    for package in ("torch", "lightning", "attention-lab"):
        assert status["versions"][package] == version(package)
    assert sys.version.startswith(status["versions"]["python"])
    assert (status["identity"], status["resumed"]) == (identity(CONFIG | {"seed": 7}), [])
    assert read_config(directory) == CONFIG | {"seed": 7}
    names = {path.name for path in directory.iterdir()}
    assert names == {".lock", "config.yaml", "status.json"}


def test_progress_is_written_at_once(tmp_path: Path) -> None:
    record = RunRecord(unchecked(CONFIG, tmp_path))
    before = read_status(tmp_path)
    record.progress(3, 10, {"validation/per": 0.5}, "min")
    after = read_status(tmp_path)
    assert after["progress"] == {
        "step": 3,
        "steps": 10,
        "metrics": {"validation/per": 0.5},
        "mode": "min",
    }
    assert before | {"progress": None, "updated": None} == after | {
        "progress": None,
        "updated": None,
    }
    assert after["updated"] >= before["updated"]


def test_a_run_finishes_with_its_result(tmp_path: Path) -> None:
    record = RunRecord(unchecked(CONFIG, tmp_path))
    record.progress(3, 10, {}, "min")
    record.finish({"test": {"per": 0.25}, "steps_to_threshold": None})
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "schema_version": 1,
        "test": {"per": 0.25},
        "steps_to_threshold": None,
    }
    status = read_status(tmp_path)
    assert (status["status"], status["error"]) == ("finished", None)
    assert status["started"] <= status["finished"] <= status["updated"]
    assert status["progress"]["step"] == 3
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "config.yaml", "status.json", "result.json"}


def test_a_finished_run_has_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """result.json is written before the status "finished"."""
    written: list[str] = []
    write = run_directory.write_atomically

    def spy(path: Path, text: str, durable: bool = True) -> None:
        written.append(f"{path.name}: {json.loads(text).get('status')}")
        assert durable
        write(path, text)

    record = RunRecord(unchecked(CONFIG, tmp_path))
    monkeypatch.setattr(run_directory, "write_atomically", spy)
    record.finish({})
    assert written == ["result.json: None", "status.json: finished"]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("√ of −1"), "failed", "ValueError: √ of −1"),
        (Stopped("diverged", "the loss is nan"), "diverged", "the loss is nan"),
        (Stopped("preempted", "SIGTERM"), "preempted", "SIGTERM"),
        (KeyboardInterrupt(), "preempted", "interrupted"),
        (SystemExit(1), "preempted", "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), "preempted", DISK_FULL),
    ],
)
def test_the_exception_that_ends_a_run_becomes_its_status(
    error: BaseException, status: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), RunRecord(unchecked(CONFIG, tmp_path)):
        raise error
    assert (read_status(tmp_path)["status"], read_status(tmp_path)["error"]) == (status, reason)
    assert -1 < seconds_ago(read_status(tmp_path)["finished"]) < 60
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("status", "afterwards"), [("finished", "finished"), ("running", "preempted")]
)
def test_a_process_killed_after_its_result_leaves_a_finished_run(
    status: str, afterwards: str, tmp_path: Path
) -> None:
    """As while a logger uploads: the launcher must not record that the run has not finished."""
    record = RunRecord(unchecked(CONFIG, tmp_path))
    record.finish({"test": {}})
    record.close()
    path = tmp_path / "status.json"
    path.write_text(path.read_text().replace('"status": "finished"', f'"status": "{status}"'))
    record_failure(unchecked(CONFIG, tmp_path), "killed by SIGKILL")
    assert read_status(tmp_path)["status"] == afterwards


@pytest.mark.usefixtures("fresh_code_version")
def test_status_json_is_never_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--watch` must not show a run that just starts as failed."""
    seen: list[str] = []

    def look() -> str:
        file = tmp_path / "status.json"
        seen.append(file.read_text() if file.exists() else "no file")
        return "0123abc"

    monkeypatch.setattr(code_version, "_git_revision", look)
    RunRecord(unchecked(CONFIG, tmp_path))
    assert seen
    assert "" not in seen


@pytest.mark.usefixtures("fresh_code_version")
def test_a_machine_without_git_can_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    RunRecord(unchecked(CONFIG, tmp_path / "run"))
    assert read_status(tmp_path / "run")["git_revision"] is None
