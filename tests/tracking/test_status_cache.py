"""Statuses that are read again and again: the same as read_status, from changed files only."""

import json
import os
from pathlib import Path

import pytest

from attention_lab.sweeps.watch import watch
from attention_lab.tracking import status_cache
from attention_lab.tracking.record_files import with_version
from attention_lab.tracking.run_directory import RunRecord
from attention_lab.tracking.run_status import read_status
from attention_lab.tracking.status_cache import FileCache, StatusCache
from tests.runs import Stopped, unchecked


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories whose status the cache has read."""
    read: list[Path] = []

    def recorded(directory: Path) -> object:
        read.append(directory)
        return read_status(directory)

    monkeypatch.setattr(status_cache, "read_status", recorded)
    return read


def test_a_status_is_read_again_when_it_changes(tmp_path: Path, reads: list[Path]) -> None:
    cache, run = StatusCache(), tmp_path / "run"
    states = [cache.read(run).state, cache.read(run).state]
    record = RunRecord(unchecked({"seed": 0}, run))
    states += [cache.read(run).state, cache.read(run).state]
    record.progress(3, 9, {}, "min")
    assert cache.read(run).progress == read_status(run).progress
    record.end(Stopped("diverged", "a reason"))
    record.close()
    states += [cache.read(run).state, cache.read(run).state]
    assert states == ["waiting"] * 2 + ["running"] * 2 + ["diverged"] * 2
    assert len(reads) == 4


def test_a_process_that_exits_without_a_record_is_noticed(
    tmp_path: Path, reads: list[Path]
) -> None:
    cache, record = StatusCache(), RunRecord(unchecked({"seed": 0}, tmp_path))
    assert cache.read(tmp_path).state == "running"
    record.close()
    assert cache.read(tmp_path).state == cache.read(tmp_path).state == "preempted"
    assert len(reads) == 2
    (tmp_path / "status.json").write_text(json.dumps(with_version({"status": "finished"})))
    assert cache.read(tmp_path).error == "result.json is missing"
    (tmp_path / "result.json").write_text(json.dumps(with_version({"validation": {}})))
    assert cache.read(tmp_path).state == "finished"


def test_a_rewritten_file_of_equal_size_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    cache = FileCache("file", lambda directory: (directory / "file").read_text())
    file.write_text("one")
    assert cache.read(tmp_path) == "one"
    (tmp_path / "new").write_text("two")
    os.utime(tmp_path / "new", ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    (tmp_path / "new").replace(file)
    assert cache.read(tmp_path) == "two"


def test_watching_reads_ended_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    monkeypatch.setattr("attention_lab.sweeps.watch.INTERVAL", 0.0)
    for name in "abc":
        record = RunRecord(unchecked({"seed": 0}, tmp_path / name))
        record.end(Stopped("failed", "a reason"))
        record.close()
    jobs = [{"directory": name, "overrides": []} for name in "abc"]
    (tmp_path / "sweep.json").write_text(json.dumps(with_version({"jobs": jobs})))
    watch([tmp_path])
    assert reads == [tmp_path / name for name in "abc"]
