"""The record files of a run are always complete and right."""

import errno
import fcntl
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from attention_lab.atomic_write import write_atomically
from attention_lab.config.identity import identity
from attention_lab.tracking import code_version, run_directory
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_directory import (
    DISK_FULL,
    RunExists,
    RunRecord,
    read_config,
    record_failure,
    write_config,
)
from tests.conftest import FinishedRun
from tests.runs import Stopped, unchecked


def read(directory: Path) -> dict[str, Any]:
    """A run's ``status.json``."""
    status: dict[str, Any] = json.loads((directory / "status.json").read_text("utf-8"))
    return status


CONFIG = {"seed": 0, "trainer": {"max_epochs": 2, "enable_progress_bar": True}}


def seconds_ago(moment: str) -> float:
    """The time since a moment, which must have a time zone."""
    then = datetime.fromisoformat(moment)
    assert then.utcoffset() == timedelta(0)
    return (datetime.now(UTC) - then).total_seconds()


# Writing


def test_text_is_written_unchanged(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "e²\n")
    write_atomically(tmp_path / "file", "Bahdanau · √d\n")
    assert (tmp_path / "file").read_bytes() == "Bahdanau · √d\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_atomically(file, "old")

    def break_off(_: int) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", break_off)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "newer")
    assert file.read_text() == "old"


def test_a_reader_never_finds_half_a_file(tmp_path: Path) -> None:
    file, texts = tmp_path / "file", ["a" * 500_000, "b" * 700_000]
    write_atomically(file, texts[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(60):
            write_atomically(file, texts[turn % 2])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = set()
        while not done.is_set() and not writing.done():
            seen.add(file.read_text())
        writing.result()
    assert seen <= set(texts)


def test_durable_writes_are_flushed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync"))
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("rename") or replace(*paths))
    write_atomically(tmp_path / "file", "text")
    write_atomically(tmp_path / "file", "text", durable=False)
    assert done == ["fsync", "rename", "rename"]


# The config


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = {"seed": 3, "b": {"name": "Übung", "rates": [1e-3, 2], "mask": None}, "a": True}
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config
    assert list(read_config(tmp_path)) == ["seed", "b", "a"]


def test_a_config_file_says_how_to_run_it_again(tmp_path: Path) -> None:
    write_config(tmp_path, {"seed": 3})
    text = (tmp_path / "config.yaml").read_text("utf-8")
    assert "attention-lab train --from RUN_DIRECTORY" in text
    assert yaml.safe_load(text) == {"schema_version": 1, "seed": 3}


def test_a_run_keeps_its_config(words_run: FinishedRun) -> None:
    assert read_config(words_run.directory) == words_run.config


# The status


@pytest.mark.parametrize(("sweep", "is_given"), [("abc", True), (None, False)])
def test_a_run_of_a_wandb_agent_has_the_id_from_the_agent(
    sweep: str | None, is_given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "1a2b3c4d")
    if sweep:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    RunRecord(unchecked(CONFIG, tmp_path / "run"))
    assert (read(tmp_path / "run")["wandb_id"] == "1a2b3c4d") is is_given


def test_a_record_begins_as_running(tmp_path: Path) -> None:
    directory = tmp_path / "sweep" / "run"
    RunRecord(unchecked(CONFIG | {"seed": 7}, directory, ["attention=additive", "seed=7"]))
    status = read(directory)
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
    before = read(tmp_path)
    record.progress(3, 10, {"validation/per": 0.5}, "min")
    after = read(tmp_path)
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
    assert read(tmp_path)["status"] == afterwards


def test_a_run_finishes_with_its_result(tmp_path: Path) -> None:
    record = RunRecord(unchecked(CONFIG, tmp_path))
    record.progress(3, 10, {}, "min")
    record.finish({"test": {"per": 0.25}, "steps_to_threshold": None})
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "schema_version": 1,
        "test": {"per": 0.25},
        "steps_to_threshold": None,
    }
    status = read(tmp_path)
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
    assert (read(tmp_path)["status"], read(tmp_path)["error"]) == (status, reason)
    assert -1 < seconds_ago(read(tmp_path)["finished"]) < 60
    assert not (tmp_path / "result.json").exists()


# One directory, one run


@pytest.fixture(autouse=True)
def fresh_code_version() -> Iterator[None]:
    """Clears the cached code version for each test."""
    code_version.code_version.cache_clear()
    yield
    code_version.code_version.cache_clear()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The directory of a run that was cut off after three steps."""
    record = RunRecord(unchecked(CONFIG, tmp_path, ["first"]))
    record.progress(3, 10, {}, "min")
    record.close()
    return tmp_path


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("ending", [None, "failed", "diverged", "preempted"])
def test_a_run_that_has_not_finished_resumes(tmp_path: Path, ending: Any) -> None:
    first = RunRecord(unchecked(CONFIG, tmp_path, ["first"]))
    assert not first.is_resumed
    first.progress(3, 10, {}, "min")
    if ending:
        first.end(Stopped(ending, "an error"))
    first.close()
    before = read(tmp_path)
    for times in (1, 2):
        again = RunRecord(
            unchecked(CONFIG | {"logger": {"wandb": "another"}}, tmp_path, ["second"])
        )
        assert again.is_resumed
        after = read(tmp_path)
        assert (after["status"], after["error"], after["finished"]) == ("running", None, None)
        for lasting in ("started", "progress", "wandb_id"):
            assert after[lasting] == before[lasting]
        assert after["overrides"] == ["second"]
        assert len(after["resumed"]) == times
        assert before["started"] <= after["resumed"][-1] <= after["updated"]
        again.close()


def test_resuming_with_other_code_gives_a_warning(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_version, "_git_revision", lambda: "abc")
    code_version.code_version.cache_clear()
    status = read(begun)
    status |= {"git_revision": "abc", "versions": status["versions"] | {"torch": "1.0"}}
    (begun / "status.json").write_text(json.dumps(status))
    message = rf"started with other code \(torch was 1\.0, is {re.escape(version('torch'))}\)"
    with pytest.warns(UserWarning, match=message):
        RunRecord(unchecked(CONFIG, begun)).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RunRecord(unchecked(CONFIG, begun)).close()


def test_partial_files_of_a_killed_process_are_removed(begun: Path) -> None:
    (begun / "checkpoints").mkdir()
    (begun / ".status.json.123.partial").write_text("{")
    (begun / "checkpoints" / ".last.ckpt.123.partial").write_text("half")
    (begun / "notes.partial").write_text("mine")
    RunRecord(unchecked(CONFIG, begun))
    names = {path.name for path in begun.iterdir()}
    assert names == {".lock", "checkpoints", "config.yaml", "status.json", "notes.partial"}
    assert not list((begun / "checkpoints").iterdir())


def test_a_finished_run_is_not_overwritten(begun: Path) -> None:
    record = RunRecord(unchecked(CONFIG, begun))
    record.finish({})
    record.close()
    before = files(begun)
    with pytest.raises(RunExists, match="holds a run that has finished; name another directory"):
        RunRecord(unchecked(CONFIG, begun))
    assert files(begun) == before


@pytest.mark.parametrize(
    ("other", "different"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"trainer": {"max_epochs": 2.0}}, "trainer.max_epochs is 2 there, 2.0 here"),
        ({"trainer": {}}, "trainer is not there, {} here; trainer.max_epochs is 2 there, not here"),
        ({"a": 1, "b": "x", "c": None, "d": 4}, "a is not there, 1 here; .*; and 1 more"),
    ],
)
def test_a_directory_with_another_run_names_the_differences(
    other: dict[str, Any], different: str, begun: Path
) -> None:
    before = files(begun)
    with pytest.raises(
        RunExists, match=f"holds another run \\({different}\\); name another"
    ) as caught:
        RunRecord(unchecked(CONFIG | other, begun))
    assert "\n" not in str(caught.value)
    assert files(begun) == before


def test_a_job_that_has_not_started_is_no_run(tmp_path: Path) -> None:
    write_config(tmp_path, CONFIG | {"seed": 1})
    (tmp_path / "log.txt").write_text("")
    assert not RunRecord(unchecked(CONFIG, tmp_path)).is_resumed
    assert read_config(tmp_path) == CONFIG


def test_a_status_lost_in_a_power_failure_is_replaced(begun: Path) -> None:
    (begun / "status.json").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = RunRecord(unchecked(CONFIG, begun))
    assert record.is_resumed
    assert read(begun)["status"] == "running"


def test_a_run_with_an_unreadable_config_is_not_overwritten(begun: Path) -> None:
    (begun / "config.yaml").write_text("{")
    with pytest.raises(RunExists, match=r"config\.yaml is not valid YAML.*; name another"):
        RunRecord(unchecked(CONFIG, begun))


def test_one_of_several_simultaneous_runs_gets_the_directory(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def start(number: int) -> RunRecord | None:
        together.wait()
        try:
            return RunRecord(unchecked(CONFIG, tmp_path, [str(number)]))
        except RunExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        started = [record for record in pool.map(start, range(8)) if record is not None]
    assert len(started) == 1
    assert read(tmp_path)["resumed"] == []


def test_the_owner_of_a_lock_is_named_and_a_killed_owner_releases_it(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from attention_lab.tracking.run_directory import RunRecord;"
        "from attention_lab.config.resolve import RunConfig, RunSpec;"
        f"record = RunRecord(RunSpec(RunConfig({CONFIG!r}), Path(sys.argv[1])));"
        "print('begun', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        holder = f"process {process.pid} on {socket.gethostname()} since 2"
        with pytest.raises(RunExists, match=holder):
            RunRecord(unchecked(CONFIG, tmp_path))
        process.kill()
    assert RunRecord(unchecked(CONFIG, tmp_path)).is_resumed
    assert read(tmp_path)["pid"] == os.getpid()


def test_a_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(Function not implemented\)"):
        RunRecord(unchecked(CONFIG, tmp_path))
    assert read(tmp_path)["status"] == "running"


@pytest.mark.parametrize(
    ("host", "age", "expected"),
    [("elsewhere", 0, True), ("elsewhere", 100, False), (socket.gethostname(), 0, False)],
)
def test_a_run_of_another_host_is_locked_while_its_status_is_recent(
    tmp_path: Path, host: str, age: int, expected: bool
) -> None:
    """A lock of another host may be invisible, as on NFS without its lock service."""
    (tmp_path / ".lock").write_text(f"process 1 on {host} since 2026-01-02T03:04:05+00:00\n")
    (tmp_path / "status.json").touch()
    then = time.time() - age
    os.utime(tmp_path / "status.json", (then, then))
    assert is_locked(tmp_path) is expected


def test_a_directory_with_other_files_can_hold_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunRecord(unchecked(CONFIG, tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


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


def test_a_machine_without_git_can_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    RunRecord(unchecked(CONFIG, tmp_path / "run"))
    assert read(tmp_path / "run")["git_revision"] is None


@pytest.mark.parametrize("earlier", [None, CONFIG, CONFIG | {"seed": 5}, "cut off"])
def test_a_start_writes_only_what_a_sweep_has_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: Any
) -> None:
    """A shared file system is slow at flushing files to disk."""
    if isinstance(earlier, dict):
        write_config(tmp_path, earlier)
    elif earlier is not None:
        (tmp_path / "config.yaml").write_text(earlier)
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    RunRecord(unchecked(CONFIG, tmp_path)).close()
    assert len(flushed) == (1 if earlier is CONFIG else 2)  # status.json, and config.yaml
    assert read_config(tmp_path) == CONFIG
