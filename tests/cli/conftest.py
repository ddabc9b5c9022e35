"""Helpers that run the command: in this process, which is fast, or in a new process."""

import io
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from attention_lab.cli import main
from attention_lab.training.build import BuiltRun
from attention_lab.training.evaluation import restored
from tests.cli.letters import language_run
from tests.conftest import Compose, FinishedRun
from tests.tracking.wandb_files import forget_login

#: Settings that make one run of a real model on real data take a second.
TINY = (
    "logger=csv",
    "trainer=cpu",
    "trainer.max_steps=4",
    "model.d_model=16",
    "data.limit=200",
    "data.evaluation_limit=40",
)


class Answer(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


def after_checking(out: str) -> str:
    """Output without the line that a sweep prints before it checks its jobs."""
    return re.sub(r"^checking \d+ jobs? …\n", "", out)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `attention-lab ARGUMENTS…` in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.delenv("COLUMNS", raising=False)  # parallel tests have it: lines would be wrapped

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        handlers, level = list(logging.root.handlers), logging.root.level
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse
            code = stop.code if isinstance(stop.code, int) else 1
        finally:  # Hydra's handlers write to a captured stream that is closed after the test
            logging.root.handlers[:] = handlers
            logging.root.setLevel(level)
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not logged in to W&B, no SLURM, one thread for each run."""
    forget_login(monkeypatch, tmp_path.parent / "home")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    programs = tmp_path.parent / f"{tmp_path.name}-bin"
    programs.mkdir()
    (programs / "git").symlink_to(shutil.which("git") or "/usr/bin/git")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


#: Makes a program of one line of shell.
Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, bare: None) -> Program:
    """Makes programs that the command finds, in place of SLURM's."""

    def make(name: str, line: str) -> None:
        path = tmp_path.parent / f"{tmp_path.name}-bin" / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    return make


Ask = Callable[..., Answer]


@pytest.fixture
def ask(command: Command, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs `attention-lab predict RUN OPTIONS…` on some input."""

    def run(directory: Path, text: str | bytes, *options: str) -> Answer:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return command("predict", str(directory), *options)

    return run


def fresh(*arguments: str, cwd: Path, python: Path = Path(sys.executable)) -> Answer:
    """Runs `python ARGUMENTS…` in a new process."""
    done = subprocess.run(
        [python, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def words(words_run: FinishedRun) -> BuiltRun:
    """The run on words with the weights of its best checkpoint."""
    run = restored(words_run.directory)
    run.task.cpu().eval()
    return run


@pytest.fixture(scope="session")
def letters_run(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has learned the order of four letters and a line break."""
    return language_run(
        compose,
        tmp_path_factory.mktemp("letters") / "run",
        "model.dropout=0.0",
        "trainer.max_steps=60",
        "optimizer.lr=0.01",
        "scheduler.warmup_steps=0",
    )
