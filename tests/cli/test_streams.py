"""Closed streams, streams of another encoding, and a working directory that is gone."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from attention_lab.training.distributed import workers
from tests.conftest import FinishedRun

COMMAND = f"{sys.executable} -m attention_lab"


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(
    closed: str, words_run: FinishedRun, tmp_path: Path
) -> None:
    done = shell(f"{COMMAND} predict {words_run.directory} {closed}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_encoding_without_every_character_prints_escapes(tmp_path: Path) -> None:
    done = shell(f"{COMMAND} list attention", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xb7" in done.stdout


def test_a_removed_working_directory_is_one_line(tmp_path: Path) -> None:
    done = shell(f"mkdir gone && cd gone && rmdir ../gone && {COMMAND} list", tmp_path)
    says = "the working directory has been removed; change to another one"
    assert (done.returncode, done.stderr) == (2, f"attention-lab: {says}\n")


def test_a_long_tmpdir_is_not_used_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ("x" * 85)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 85)))
    made: list[str] = []
    monkeypatch.setattr(
        workers.multiprocessing.util, "get_temp_dir", lambda: made.append(tempfile.gettempdir())
    )
    workers.shorten_socket_paths()
    assert made == ["/tmp"]
    assert tempfile.gettempdir().endswith("x" * 85)
