"""Watching a sweep from another process until no process runs it."""

import json
import threading
import time
from pathlib import Path

import pytest

from attention_lab.reports.runs import NotARun
from attention_lab.sweeps.slurm_queue import Queue, submitted_job
from attention_lab.sweeps.watch import watch
from attention_lab.tracking.lock import Lock
from attention_lab.tracking.record_files import with_version
from attention_lab.tracking.run_directory import RunRecord
from attention_lab.tracking.run_status import read_status
from tests.cli.conftest import Command, command  # noqa: F401
from tests.runs import Stopped, unchecked


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of two jobs, neither of which has started."""
    jobs = [{"directory": name, "overrides": []} for name in ("a", "b")]
    (tmp_path / "sweep.json").write_text(json.dumps(with_version({"jobs": jobs})))
    return tmp_path


def test_watching_ends_with_the_sweep_and_prints_how_each_job_ended(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("attention_lab.sweeps.watch.INTERVAL", 0.01)
    lock = Lock(sweep)
    watcher = threading.Thread(target=watch, args=([sweep],))
    watcher.start()
    for name, status in (("a", "diverged"), ("b", "failed")):
        record = RunRecord(unchecked({"seed": 0}, sweep / name))
        time.sleep(0.05)
        assert read_status(sweep / name).state == "running"
        record.end(Stopped(status, f"as {name} does"))
        record.close()
    time.sleep(0.05)
    assert watcher.is_alive()  # the sweep might still start a job
    lock.release()
    watcher.join(5)
    assert not watcher.is_alive()
    assert capsys.readouterr().out.splitlines() == [
        "[1/2] a  diverged: as a does",
        "[2/2] b  failed: as b does",
    ]


def test_a_job_is_not_settled_before_slurm_has_answered(sweep: Path) -> None:
    (sweep / "a").mkdir()
    (sweep / "a" / "slurm.json").write_text(json.dumps(with_version({"job": "12"})))
    (sweep / "b").write_text("a file, where the run's directory should be")
    queue = Queue()
    assert submitted_job(sweep / "a") == "12"
    assert queue.settle(sweep / "a") == read_status(sweep / "a")
    assert submitted_job(sweep / "b") is None


def test_a_directory_without_a_sweep_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotARun, match=r"no sweep to watch: .*sweep.json is missing"):
        watch([tmp_path])


def test_a_report_follows_watching(command: Command, sweep: Path) -> None:  # noqa: F811
    answer = command("report", str(sweep), "--watch")
    assert answer.code == 0, answer.err
    assert (sweep / "report.html").exists()
    assert command("report", str(sweep.parent / "nowhere"), "--watch").code == 2
