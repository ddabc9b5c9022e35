"""The plain files of a run: always whole, always true."""

import json
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from attention_lab.recording import run_directory
from attention_lab.recording.run_directory import (
    RunExists,
    RunRecord,
    read_config,
    write_atomically,
    write_config,
)
from tests.conftest import FinishedRun


def read(directory: Path) -> dict[str, Any]:
    """A run's ``status.json``."""
    status: dict[str, Any] = json.loads((directory / "status.json").read_text("utf-8"))
    return status


def seconds_ago(moment: str) -> float:
    """How long ago a moment was; it must say in which time zone it is."""
    then = datetime.fromisoformat(moment)
    assert then.utcoffset() == timedelta(0)
    return (datetime.now(UTC) - then).total_seconds()


# Writing


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "e²\n")
    write_atomically(tmp_path / "file", "Bahdanau · √d\n")
    assert (tmp_path / "file").read_bytes() == "Bahdanau · √d\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write = tmp_path / "file", Path.write_text
    write_atomically(file, "old")

    def break_off(path: Path, text: str, **options: Any) -> NoReturn:
        write(path, text[:2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", break_off)
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


# The config


def test_a_config_comes_back_as_it_was(tmp_path: Path) -> None:
    config = {"seed": 3, "b": {"name": "Übung", "rates": [1e-3, 2], "mask": None}, "a": True}
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config
    assert list(read_config(tmp_path)) == ["seed", "b", "a"]


def test_a_config_file_says_how_to_run_it_again(tmp_path: Path) -> None:
    write_config(tmp_path, {"seed": 3})
    text = (tmp_path / "config.yaml").read_text("utf-8")
    assert "attention-lab train --config-dir RUN_DIRECTORY --config-name config" in text
    assert yaml.safe_load(text) == {"defaults": ["settings", "_self_"], "seed": 3}


def test_a_run_keeps_its_config(words_run: FinishedRun) -> None:
    assert read_config(words_run.directory) == words_run.config


# The status


def test_a_record_begins_as_running(tmp_path: Path) -> None:
    directory = tmp_path / "sweep" / "run"
    RunRecord(directory, 7, ["attention=additive", "seed=7"])
    status = read(directory)
    assert status.keys() == {
        "status",
        "started",
        "updated",
        "finished",
        "pid",
        "host",
        "seed",
        "overrides",
        "git_revision",
        "versions",
        "command",
        "error",
        "progress",
    }
    assert status["status"] == "running"
    assert (status["finished"], status["error"], status["progress"]) == (None, None, None)
    assert (status["seed"], status["overrides"]) == (7, ["attention=additive", "seed=7"])
    assert (status["pid"], status["host"]) == (os.getpid(), socket.gethostname())
    assert status["command"] == " ".join(sys.argv)
    assert -1 < seconds_ago(status["started"]) < 60
    for package in ("torch", "lightning", "attention-lab"):
        assert status["versions"][package] == version(package)
    assert sys.version.startswith(status["versions"]["python"])
    assert [path.name for path in directory.iterdir()] == ["status.json"]


def test_progress_is_seen_at_once(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, 0, [])
    before = read(tmp_path)
    record.progress(3, 10, {"validation/per": 0.5})
    after = read(tmp_path)
    assert after["progress"] == {"step": 3, "steps": 10, "metrics": {"validation/per": 0.5}}
    assert before | {"progress": None, "updated": None} == after | {
        "progress": None,
        "updated": None,
    }
    assert after["updated"] >= before["updated"]


def test_a_run_finishes_with_its_result(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, 0, [])
    record.progress(3, 10, {})
    record.finish({"test": {"per": 0.25}, "steps_to_threshold": None})
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "test": {"per": 0.25},
        "steps_to_threshold": None,
    }
    status = read(tmp_path)
    assert (status["status"], status["error"]) == ("finished", None)
    assert status["started"] <= status["finished"] <= status["updated"]
    assert status["progress"]["step"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"status.json", "result.json"}


def test_a_finished_run_has_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads "finished" will find result.json: it is written first."""
    written: list[str] = []
    write = run_directory.write_atomically

    def spy(path: Path, text: str) -> None:
        written.append(f"{path.name}: {json.loads(text).get('status')}")
        write(path, text)

    record = RunRecord(tmp_path, 0, [])
    monkeypatch.setattr(run_directory, "write_atomically", spy)
    record.finish({})
    assert written == ["result.json: None", "status.json: finished"]


@pytest.mark.parametrize("status", ["failed", "diverged", "preempted"])
def test_a_run_ends_without_a_result_for_a_reason(tmp_path: Path, status: Any) -> None:
    RunRecord(tmp_path, 0, []).end(status, "ValueError: √ of −1")
    assert (read(tmp_path)["status"], read(tmp_path)["error"]) == (status, "ValueError: √ of −1")
    assert -1 < seconds_ago(read(tmp_path)["finished"]) < 60
    assert not (tmp_path / "result.json").exists()


# One directory, one run


def test_a_directory_takes_one_run_only(tmp_path: Path) -> None:
    RunRecord(tmp_path, 0, ["first"]).end("failed", "an error")
    before = (tmp_path / "status.json").read_bytes()
    with pytest.raises(RunExists, match="already holds a run; name another directory"):
        RunRecord(tmp_path, 0, ["second"])
    assert (tmp_path / "status.json").read_bytes() == before


def test_of_runs_that_start_together_one_gets_the_directory(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def start(number: int) -> int | None:
        together.wait()
        try:
            RunRecord(tmp_path, number, [])
        except RunExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        started = [number for number in pool.map(start, range(8)) if number is not None]
    assert len(started) == 1
    assert read(tmp_path)["seed"] == started[0]


def test_a_directory_with_other_files_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunRecord(tmp_path, 0, [])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_there_is_no_moment_with_an_empty_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches a sweep must not take a run that just starts for a broken one."""
    seen: list[str] = []

    def look() -> str:
        file = tmp_path / "status.json"
        seen.append(file.read_text() if file.exists() else "no file")
        return "0123abc"

    monkeypatch.setattr(run_directory, "_git_revision", look)
    RunRecord(tmp_path, 0, [])
    assert seen
    assert "" not in seen


def test_a_machine_without_git_can_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    RunRecord(tmp_path / "run", 0, [])
    assert read(tmp_path / "run")["git_revision"] is None
