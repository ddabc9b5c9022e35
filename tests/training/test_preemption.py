"""A run that a signal preempts at any moment can be resumed and ends bit-identical."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from attention_lab.data.core.bucket_sampler import BucketBatchSampler
from attention_lab.tracking import run_directory
from attention_lab.training import run as run_module
from attention_lab.training.checkpoint.checkpoint_io import read
from attention_lab.training.preemption import SIGNALS, Preempted, StopSignals
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import train
from tests.training.conftest import (
    OPTIONS,
    Interrupt,
    Refuse,
    SignalIn,
    assert_identical,
    read_status,
    result,
    rows,
    start_training,
    stops_early,
    train_until_interrupted,
    train_until_preempted,
)


# After these steps nothing, a log, a validation, the end of an epoch, or several of them are due.
@pytest.mark.parametrize("steps", [[1, 2, 3, 4], [5, 6, 12], [13, 14, 15], [24, 25], [26]])
def test_a_preempted_run_ends_bit_identical_to_an_uninterrupted_one(
    steps: list[int],
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    signal_in: SignalIn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in steps:
        signal_in(AttentionTask, "training_step", lambda self, n=number: self.global_step == n - 1)
        reason = train_until_preempted(config, tmp_path / "run")
        assert reason == f"SIGUSR1: saved at step {number}"
        again = f"the same command with hydra.run.dir={tmp_path / 'run'} resumes it"
        assert capsys.readouterr().err.endswith(f"{reason}; {again}\n")
        torch.rand(7), random.random()  # another process draws other numbers
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


@pytest.mark.parametrize("steps", [[10], [10, 10, 15], [5, 26, 26]])
def test_an_interrupted_validation_is_repeated(
    steps: list[int], config: dict[str, Any], whole: Path, tmp_path: Path, signal_in: SignalIn
) -> None:
    """The validation and the steps after it draw the same random numbers."""
    for number in steps:
        batch = itertools.count()
        signal_in(
            AttentionTask,
            "validation_step",
            lambda self, n=number, b=batch: self.global_step == n and next(b) == 1,
        )
        reason = train_until_preempted(config, tmp_path / "run")
        assert reason == f"SIGUSR1: saved at step {number}"
        validated = [row["step"] for row in rows(tmp_path / "run") if row.get("validation/loss")]
        assert str(number) not in validated
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("options", "last"),
    [
        (["trainer.max_steps=17"], 17),
        (["trainer.max_steps=4", "trainer.max_epochs=-1"], 4),  # there is no other validation
        (["trainer.max_steps=13"], 13),  # the epoch ends there as well
        ([*stops_early(1), "optimizer.lr=0.3", "trainer.max_epochs=5"], None),
    ],
)
def test_an_interrupted_last_validation_is_repeated_whatever_ends_training(
    options: list[str],
    last: int | None,
    tiny_digits: Compose,
    tmp_path: Path,
    signal_in: SignalIn,
) -> None:
    """Lightning skips a finished training loop and its hooks."""
    config = tiny_digits(*OPTIONS, *options)
    train(config, tmp_path / "whole" / "run", [])
    last = last or result(tmp_path / "whole" / "run")["steps"]
    for _ in range(2):
        signal_in(AttentionTask, "validation_step", lambda self: self.global_step == last)
        assert train_until_preempted(config, tmp_path / "run") == f"SIGUSR1: saved at step {last}"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


@pytest.mark.parametrize("max_steps", [None, 10])
def test_a_run_that_resumes_with_a_validation_shows_a_progress_bar(
    max_steps: int | None,
    with_progress_bar: dict[str, Any],
    tmp_path: Path,
    signal_in: SignalIn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = {
        **with_progress_bar,
        "trainer": {**with_progress_bar["trainer"], "max_steps": max_steps},
    }
    train(config, tmp_path / "whole" / "run", [])
    capsys.readouterr()
    signal_in(AttentionTask, "validation_step", lambda self: self.global_step == 10)
    train_until_preempted(config, tmp_path / "run")
    capsys.readouterr()
    train(config, tmp_path / "run", [])
    assert "elapsed" in capsys.readouterr().out
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


def test_a_signal_before_the_first_step_saves_no_checkpoint(
    config: dict[str, Any], whole: Path, tmp_path: Path, signal_in: SignalIn
) -> None:
    signal_in(BucketBatchSampler, "set_epoch", lambda sampler: sampler.shuffle)
    assert train_until_preempted(config, tmp_path / "run") == "SIGUSR1: not saved"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


class Once(list[int]):
    """A list of steps from which ``in`` removes the step that it finds."""

    def __contains__(self, step: object) -> bool:
        if there := super().__contains__(step):
            self.remove(step)  # type: ignore[arg-type]  # it is one of them
        return there


@pytest.mark.filterwarnings("ignore:.*could not be saved:UserWarning")
@pytest.mark.parametrize("step", [7, 10])
def test_steps_that_could_not_be_saved_at_a_signal_are_trained_again(
    step: int,
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    signal_in: SignalIn,
    refuse_to_save: Refuse,
) -> None:
    """Saving is not tried again at the same step."""
    refuse_to_save(Once([step]))
    signal_in(AttentionTask, "training_step", lambda self: self.global_step == step - 1)
    assert train_until_preempted(config, tmp_path / "run") == "SIGUSR1: saved at step 5"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


def test_a_signal_outside_of_training_stops_the_run_at_once(
    config: dict[str, Any], whole: Path, tmp_path: Path, signal_in: SignalIn
) -> None:
    signal_in(AttentionTask, "test_step", lambda self: True)
    assert train_until_preempted(config, tmp_path / "run") == "SIGUSR1"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)
    signal_in(run_module, "build", lambda config: True)
    with pytest.raises(Preempted, match="SIGUSR1"):
        train(config, tmp_path / "other", [])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_logger_closes_leaves_the_run_finished(
    number: signal.Signals,
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its SLURM job is not requeued."""

    class Uploading(DummyLogger):
        def close(self, exit_code: int) -> None:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(run_module, "start_loggers", lambda *_: {"uploading": Uploading()})
    assert train(config, tmp_path / "run", [])["steps"] == 26
    monkeypatch.undo()
    assert_identical(tmp_path / "run", whole)
    assert not (tmp_path / "scontrol-calls").exists()
    hint = "the run has finished, but the upload may be incomplete"
    assert capsys.readouterr().err.splitlines() == [
        f"attention-lab: {number.name}: {hint}. Upload later: attention-lab sync {tmp_path / 'run'}"
    ]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_a_logger_closes_leaves_the_error_of_a_failed_run(
    number: signal.Signals,
    config: dict[str, Any],
    tmp_path: Path,
    scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its SLURM job is not requeued: it would fail again."""
    recorded: list[str] = []

    class Uploading(DummyLogger):
        def close(self, exit_code: int) -> None:
            recorded.append(read_status(tmp_path / "run")["status"])
            os.kill(os.getpid(), number)

    def fail(*_: object) -> NoReturn:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(run_module, "start_loggers", lambda *_: {"uploading": Uploading()})
    monkeypatch.setattr(AttentionTask, "validation_step", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        train(config, tmp_path / "run", [])
    status = read_status(tmp_path / "run")
    assert (recorded, status["status"]) == (["failed"], "failed")
    assert status["error"] == "RuntimeError: a mistake"
    assert not (tmp_path / "scontrol-calls").exists()


def test_a_signal_before_the_status_finished_is_written_preempts_the_run(
    config: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """status.json and the process agree on whether the run has finished."""
    write = run_directory.write_atomically

    def signalled(path: Path, text: str, durable: bool = True) -> None:
        if '"status": "finished"' in text:
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGUSR1)
        write(path, text, durable)

    monkeypatch.setattr(run_directory, "write_atomically", signalled)
    with pytest.raises(Preempted):
        train(config, tmp_path / "run", [])
    assert read_status(tmp_path / "run")["status"] == "preempted"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


def test_every_n_train_steps_saves_checkpoints_between_validations(
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    interrupt_after: Interrupt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A killed run loses no more steps than the interval, and the results do not change."""
    saved: list[int] = []
    save = Trainer.save_checkpoint

    def noted(self: Trainer, *arguments: Any) -> None:
        saved.append(self.global_step)
        save(self, *arguments)

    monkeypatch.setattr(Trainer, "save_checkpoint", noted)
    often = config | {"trainer": {**config["trainer"], "every_n_train_steps": 3}}
    interrupt_after(19)
    train_until_interrupted(often, tmp_path / "run")
    assert saved == [3, 5, 6, 9, 10, 12, 15, 18]
    assert read(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 18
    train(config, tmp_path / "run", [])  # the interval is not part of the run's identity
    assert saved[8:] == [20, 25, 26]
    assert_identical(tmp_path / "run", whole)


def test_a_checkpoint_counts_the_training_time_since_the_last_validation(
    config: dict[str, Any], tmp_path: Path, signal_in: SignalIn
) -> None:
    signal_in(AttentionTask, "training_step", lambda self: self.global_step == 3)
    train_until_preempted(config, tmp_path / "run")
    kept = read(tmp_path / "run" / "checkpoints" / "last.ckpt")["callbacks"]["History"]
    assert kept["training_seconds"] > 0.01
    assert kept["validation_seconds"] == 0


def test_an_interrupted_validation_at_the_end_of_an_epoch_is_repeated(
    tiny_digits: Compose, tmp_path: Path, signal_in: SignalIn
) -> None:
    config = tiny_digits("attention.dropout=0.2", "data.batch_size=100", "trainer.max_epochs=3")
    train(config, tmp_path / "whole" / "run", [])
    for number in (13, 26):
        signal_in(AttentionTask, "validation_step", lambda self, n=number: self.global_step == n)
        assert train_until_preempted(config, tmp_path / "run") == f"SIGUSR1: saved at step {number}"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


# Real signals


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_preempted_at_random_moments_ends_bit_identical(
    seed: int, config: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    chance, directory = random.Random(seed), tmp_path / "run"
    numbers = chance.sample(SIGNALS, len(SIGNALS))
    for number in numbers:
        there = len(rows(directory)) if directory.exists() else 0
        more = chance.randrange(1, len(rows(whole)) // len(numbers))
        if there + more >= len(rows(whole)):
            break
        process = start_training(config, directory, there + more)
        time.sleep(chance.uniform(0, 0.05))
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join()
        status = read_status(directory)
        if status["status"] == "finished":
            break
        assert process.exitcode == 1
        assert status["status"] == "preempted"
        # A signal after the last step finds nothing to save.
        saved = f"{number.name}: saved at step "
        assert status["error"].startswith(saved) or status["error"] == number.name
    if read_status(directory)["status"] != "finished":
        train(config, directory, [])
    assert_identical(directory, whole)


def test_lightning_handles_no_signals_in_training(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's SIGTERM handler would wait for other ranks."""
    found: list[Any] = []

    def look(self: AttentionTask, batch: Any, batch_index: int) -> Tensor:
        found.extend(signal.getsignal(number) for number in SIGNALS)
        return step(self, batch, batch_index)

    step = AttentionTask.training_step
    monkeypatch.setattr(AttentionTask, "training_step", look)
    train(config | {"trainer": {**config["trainer"], "max_steps": 1}}, tmp_path / "run", [])
    assert {type(getattr(handler, "__self__", None)) for handler in found} == {StopSignals}


def test_handlers_are_unchanged_outside_the_main_thread() -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    found: list[Any] = []

    def look() -> None:
        with StopSignals():
            found.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == handlers


def test_ignored_signals_stay_ignored() -> None:
    """``nohup`` ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_preempted_command_prints_how_to_resume(tiny_digits: Compose, tmp_path: Path) -> None:
    """The exit code is 1, and stderr has one line."""
    overrides = ["data=digits", "model=encoder_classifier", "trainer=cpu", "trainer.max_epochs=999"]
    command = [
        sys.executable,
        "-m",
        "attention_lab",
        "train",
        *overrides,
        "logger.wandb.mode=disabled",
    ]
    directory = tmp_path / "run"
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [*command, f"hydra.run.dir={directory}"], stdout=subprocess.DEVNULL, stderr=errors
        )
        while not (directory / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.wait() == 1
    output = (tmp_path / "err").read_text().splitlines()
    assert output[-1].startswith("SIGTERM: saved at step ")
    assert output[-1].endswith(f"; the same command with hydra.run.dir={directory} resumes it")
    assert len(output) == 1
