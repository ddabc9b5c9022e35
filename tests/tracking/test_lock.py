"""The lock of a run directory: one process trains a run."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_directory import RunExists, RunRecord
from tests.runs import unchecked
from tests.tracking.run_files import CONFIG, read_status


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
    assert read_status(tmp_path)["resumed"] == []


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
    assert read_status(tmp_path)["pid"] == os.getpid()


def test_a_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(Function not implemented\)"):
        RunRecord(unchecked(CONFIG, tmp_path))
    assert read_status(tmp_path)["status"] == "running"


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
