"""Helpers that read the files of runs, and interrupt and resume runs."""

import csv
import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Container, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from attention_lab.tracking.record_files import read_record
from attention_lab.training import fit
from attention_lab.training.preemption import SIGNALS, Preempted
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose, FinishedRun
from tests.runs import train

#: Fields of ``result.json`` that are measured, so equal runs differ in them.
MEASURED = ("seconds", "tokens_per_second", "peak_memory_bytes")


def read_status(directory: Path) -> dict[str, Any]:
    """A run's ``status.json``."""
    status: dict[str, Any] = json.loads((directory / "status.json").read_text())
    return status


def read_result(directory: Path) -> dict[str, Any]:
    """A run's ``result.json``."""
    return read_record(directory / "result.json")


def read_metrics(directory: Path, column: str) -> list[tuple[int, float]]:
    """The steps and values of one column of ``metrics.csv``, where it has values."""
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(row["step"]), float(row[column])) for row in rows if row[column]]


def read_weights(directory: Path, checkpoint: str = "last") -> dict[str, Tensor]:
    """The weights in one of a run's checkpoints."""
    path = directory / "checkpoints" / f"{checkpoint}.ckpt"
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return weights


def same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def result(directory: Path) -> dict[str, Any]:
    """The content of a run's ``result.json`` without measured fields."""
    fields: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return {name: value for name, value in fields.items() if name not in MEASURED}


def rows(directory: Path) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv`` without the costs, as text."""
    with (directory / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("cost/")} for row in found]


def page(directory: Path) -> str:
    """The HTML of a run's attention map viewer, without the run's name."""
    text = (directory / "attention" / "attention.html").read_text("utf-8")
    return text.replace(directory.name, "run")


def assert_identical(directory: Path, whole: Path) -> None:
    """Assert that all files of a run equal those of the uninterrupted one."""
    for checkpoint in ("best", "last"):
        weights = read_weights(directory, checkpoint)
        assert same_weights(weights, read_weights(whole, checkpoint)), checkpoint
    assert rows(directory) == rows(whole)
    assert result(directory) == result(whole)
    assert page(directory) == page(whole)
    # The number of saves may differ.
    there, here = ({path.name for path in run.rglob("*")} for run in (whole, directory))
    assert here - {"log.txt", "previous.ckpt"} == there - {"previous.ckpt"}


Train = Callable[[dict[str, Any]], Path]


@pytest.fixture(params=["words", "digits"])
def run(request: pytest.FixtureRequest) -> FinishedRun:
    """A finished run of each task."""
    finished: FinishedRun = request.getfixturevalue(f"{request.param}_run")
    return finished


@pytest.fixture
def trained(tmp_path: Path) -> Train:
    """A function that trains a config in a new directory, and returns the directory."""

    def run(config: dict[str, Any]) -> Path:
        directory = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        train(config, directory, [])
        return directory

    return run


Refuse = Callable[[Container[int]], None]


@pytest.fixture
def refuse_to_save(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """A function that makes saving checkpoints at some steps fail, as on a full disk."""
    save = torch.save

    def refuse(steps: Container[int]) -> None:
        def save_if_there_is_room(checkpoint: dict[str, Any], file: Any) -> None:
            if checkpoint["global_step"] in steps:
                raise OSError(errno.ENOSPC, "No space left on device")
            save(checkpoint, file)

        monkeypatch.setattr(torch, "save", save_if_there_is_room)

    return refuse


# Interrupted runs

#: 13 steps an epoch, validated after every fifth step and the last, with dropout.
OPTIONS = (
    "attention.dropout=0.2",
    "data.batch_size=100",
    "trainer.max_epochs=2",
    "trainer.val_check_interval=5",
    "trainer.log_every_n_steps=3",
)


def stops_early(patience: int) -> list[str]:
    """The overrides with which a run stops after so many validations without improvement."""
    return ["callbacks=early_stopping", f"callbacks.early_stopping.patience={patience}"]


@pytest.fixture(scope="session")
def config(tiny_digits: Compose) -> dict[str, Any]:
    """The config of a run to interrupt."""
    return tiny_digits(*OPTIONS)


@pytest.fixture(scope="session")
def whole(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the config."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    train(config, directory, [])
    return directory


@pytest.fixture
def with_progress_bar(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The config of a run that shows its progress on a terminal."""
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(fit, "sys", terminal)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then draws on a stdout that is no terminal
    return config | {"trainer": {**config["trainer"], "enable_progress_bar": True}}


class Interrupted(Exception):
    """The error that interrupts a run."""


def raise_interrupted(*_: Any, **__: Any) -> NoReturn:
    raise Interrupted


Interrupt = Callable[[int], None]


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """A function that interrupts the next run after a number of steps."""
    step = AttentionTask.training_step

    def interrupt(steps: int) -> None:
        def training_step(self: AttentionTask, batch: Any, batch_index: int) -> Tensor:
            if self.global_step == steps:
                monkeypatch.setattr(AttentionTask, "training_step", step)
                raise Interrupted
            return step(self, batch, batch_index)

        monkeypatch.setattr(AttentionTask, "training_step", training_step)

    return interrupt


SignalIn = Callable[[Any, str, Callable[[Any], bool]], None]


@pytest.fixture
def signal_in(monkeypatch: pytest.MonkeyPatch) -> SignalIn:
    """A function that makes a method send SIGUSR1 to this process, once, if a condition holds."""

    def patch(kind: Any, name: str, when: Callable[[Any], bool]) -> None:
        method = getattr(kind, name)

        def patched(self: Any, *arguments: Any, **others: Any) -> Any:
            if when(self):
                monkeypatch.setattr(kind, name, method)
                os.kill(os.getpid(), signal.SIGUSR1)
            return method(self, *arguments, **others)

        monkeypatch.setattr(kind, name, patched)

    return patch


def train_until_interrupted(config: dict[str, Any], directory: Path) -> None:
    with pytest.raises(Interrupted):
        train(config, directory, [])


def train_until_preempted(config: dict[str, Any], directory: Path) -> str:
    """Train until a signal preempts the run; return the error in its ``status.json``."""
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Preempted) as stopped:
        train(config, directory, [])
    assert stopped.value.code == 1
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    status = read_status(directory)
    assert status["status"] == "preempted"
    assert not (directory / "result.json").exists()
    error: str = status["error"]
    return error


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake ``scontrol`` in SLURM job 7 that records its arguments in ``scontrol-calls``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol-calls\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    return command


def train_on_one_core(config: dict[str, Any], directory: Path) -> None:
    torch.set_num_threads(1)
    train(config, directory, [])


def start_training(config: dict[str, Any], directory: Path, rows: int) -> ForkServerProcess:
    """Start a process that trains a config; wait until it has written a number of metric rows."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attention_lab.training.run"])
    process = context.Process(target=train_on_one_core, args=(config, directory))
    process.start()
    metrics = directory / "metrics.csv"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") <= rows:
        assert process.is_alive()
        time.sleep(0.001)
    return process
