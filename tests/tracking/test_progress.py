"""Progress of a run, for other processes and on the terminal."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.text import Text

from attention_lab.tracking import progress as module
from attention_lab.tracking.progress import (
    Heartbeat,
    ProgressLines,
    StepBar,
    validation_metrics,
)
from attention_lab.tracking.run_directory import RunRecord
from tests.conftest import FinishedRun
from tests.runs import unchecked
from tests.tracking.run_files import read_status

METRICS = {
    "train/loss": torch.tensor(2.0),
    "validation/loss": torch.tensor(1.5),
    "validation/per": torch.tensor(0.25),
    "epoch": torch.tensor(1.0),
}


def trainer(step: int, metrics: dict[str, torch.Tensor] = METRICS) -> Any:
    """A Trainer with the attributes that progress needs."""
    return SimpleNamespace(
        global_step=step, estimated_stepping_batches=100.0, callback_metrics=metrics
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test advances."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_validation_metrics_are_plain_numbers() -> None:
    metrics = validation_metrics(trainer(3))
    assert metrics == {"validation/loss": 1.5, "validation/per": 0.25}
    assert {type(value) for value in metrics.values()} == {float}


def test_progress_is_written_at_intervals(tmp_path: Path, clock: SimpleNamespace) -> None:
    heartbeat = Heartbeat(
        RunRecord(unchecked({"seed": 0}, tmp_path)), "validation/per", "min", every_seconds=2.0
    )
    beats = []
    for step in range(1, 9):
        clock.now += 0.75
        heartbeat.on_train_batch_end(trainer(step), None, None, None, step)
        beats.append((read_status(tmp_path)["progress"] or {"step": None})["step"])
    assert beats == [None, None, 3, 3, 3, 6, 6, 6]


def test_progress_is_written_at_every_validation(tmp_path: Path, clock: SimpleNamespace) -> None:
    heartbeat = Heartbeat(RunRecord(unchecked({"seed": 0}, tmp_path)), "validation/per", "min")
    for step in (10, 20):
        heartbeat.on_validation_end(trainer(step), None)  # type: ignore[arg-type]
        assert read_status(tmp_path)["progress"]["step"] == step
    progress = read_status(tmp_path)["progress"]
    assert progress["steps"] == 100
    assert progress["metrics"]["validation/per"] == 0.25


def test_progress_is_written_before_the_first_metric(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    heartbeat = Heartbeat(RunRecord(unchecked({"seed": 0}, tmp_path)), "validation/per", "min")
    clock.now += 10
    heartbeat.on_train_batch_end(trainer(1, {"train/loss": torch.tensor(1.0)}), None, None, None)
    assert read_status(tmp_path)["progress"] == {
        "step": 1,
        "steps": 100,
        "metrics": {},
        "mode": "min",
    }


def test_a_line_for_each_validation(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLines().on_validation_end(trainer(30), None)  # type: ignore[arg-type]
    ProgressLines().on_validation_end(trainer(60), None)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "step 30/100  validation: loss 1.5000, per 25.00 %",
        "step 60/100  validation: loss 1.5000, per 25.00 %",
    ]


def test_a_line_every_half_minute(
    capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    lines = ProgressLines()
    lines.on_train_start(trainer(0))
    for step in range(1, 8):
        clock.now += 10
        lines.on_train_batch_end(trainer(step))
    assert capsys.readouterr().out.splitlines() == [
        "step 3/100  train/loss 2  0.1 steps/s",
        "step 6/100  train/loss 2  0.1 steps/s",
    ]


def test_a_bar_of_all_steps_that_leaves_lines_of_validations(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, width=80, force_terminal=True, markup=False)
    monkeypatch.setattr(module, "rich_console", lambda: terminal)
    bar, training = StepBar(), trainer(0)
    bar.on_train_start(training)
    for training.global_step in range(1, 51):
        clock.now += 1
        bar.on_train_batch_end(training)
    bar.on_validation_batch_start(training)
    assert " 50/100 steps " in Text.from_ansi(screen.getvalue()).plain
    assert "validating" not in screen.getvalue()
    clock.now += 1
    bar.on_validation_batch_start(training)
    assert "validating" in screen.getvalue()
    bar.teardown(training, None, "fit")  # type: ignore[arg-type]
    assert all(len(line) <= 80 for line in Text.from_ansi(screen.getvalue()).plain.splitlines())


def test_the_progress_of_a_finished_run_is_complete(digits_run: FinishedRun) -> None:
    status = read_status(digits_run.directory)
    assert status["status"] == "finished"
    assert status["seed"] == 2
    assert status["overrides"] == digits_run.overrides
    assert status["progress"]["step"] == status["progress"]["steps"] == 20
    assert status["progress"]["metrics"].keys() >= {"validation/accuracy"}
