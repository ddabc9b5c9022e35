"""Closed streams, streams of another encoding, and a working directory that is gone."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from attention_lab.config.components import ConfigError
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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "command"),
    [("--help", "--help"), ("list data parity", "list"), ("predict {run}", "predict")],
)
def test_a_full_disk_behind_the_output_is_one_line(
    arguments: str, command: str, words_run: FinishedRun, tmp_path: Path
) -> None:
    arguments = arguments.format(run=words_run.directory)
    done = shell(f"echo a b | {COMMAND} {arguments} >/dev/full", tmp_path)
    says = f"attention-lab: {command}: cannot write the output: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, says)


def test_an_encoding_without_every_character_prints_escapes(tmp_path: Path) -> None:
    done = shell(f"{COMMAND} list attention", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xb7" in done.stdout


def test_a_removed_working_directory_is_one_line(tmp_path: Path) -> None:
    done = shell(f"mkdir gone && cd gone && rmdir ../gone && {COMMAND} list", tmp_path)
    says = "the working directory has been removed; change to another one"
    assert (done.returncode, done.stderr) == (2, f"attention-lab: {says}\n")


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [(18, 256, 48), (18, resource.RLIM_INFINITY, 48), (48, 48, None)],
)
def test_the_limit_of_open_files_is_raised_for_worker_processes(
    soft: int, hard: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    workers.reserve_open_files(2)
    assert limits == ([] if raised is None else [(raised, hard)])


def test_a_limit_of_open_files_that_is_too_low_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (18, 47))
    says = "the limit of open files is 47, but 2 processes can open 48: use ulimit -n 48, or fewer"
    with pytest.raises(ConfigError, match=says):
        workers.reserve_open_files(2)


@pytest.mark.parametrize("arguments", ["trainer.devices=2", "-m seed=1,2 hydra.sweep.dir=sweep"])
def test_too_few_open_files_create_nothing(arguments: str, tmp_path: Path) -> None:
    command = f"{COMMAND} train data=parity model=encoder_classifier trainer=cpu logger=csv"
    options = f"trainer.max_steps=1 hydra.run.dir=run {arguments}"
    done = shell(f"ulimit -n 18; {command} {options}", tmp_path)
    says = "attention-lab: the limit of open files is 18, but "
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(says)
    assert list(tmp_path.iterdir()) == []


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
