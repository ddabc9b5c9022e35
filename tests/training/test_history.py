"""The history of validations and times, and the summaries computed from it."""

import math
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from attention_lab.training import history as module
from attention_lab.training.history import History, Validation


def history_with(*values: float) -> History:
    """A history with a validation every ten steps."""
    history = History()
    for number, value in enumerate(values, start=1):
        history.validations.append(Validation(10 * number, {"validation/x": value}))
    return history


@pytest.mark.parametrize(
    ("mode", "step"),
    [("min", 20), ("max", 10)],
)
def test_best_is_the_first_of_equally_good_validations(mode: str, step: int) -> None:
    history = history_with(0.9, 0.2, 0.5, 0.2, 0.9)
    assert history.best("validation/x", mode).step == step


@pytest.mark.parametrize(
    ("threshold", "mode", "steps"),
    [
        (0.6, "min", 20),
        (0.5, "min", 40),  # as good as the threshold is not better
        (0.2, "min", None),
        (0.6, "max", 10),
        (0.8, "max", None),
    ],
)
def test_steps_to_a_threshold(threshold: float, mode: str, steps: int | None) -> None:
    history = history_with(0.8, 0.5, 0.7, 0.3)
    assert history.steps_to(threshold, "validation/x", mode) == steps


def test_a_nan_metric_is_never_the_best() -> None:
    for mode in ("min", "max"):
        assert history_with(math.nan, 0.5, math.nan).best("validation/x", mode).step == 20
        assert history_with(math.nan, math.nan).best("validation/x", mode).step == 10


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 50), st.floats(-10, 10)), min_size=1, max_size=8))
def test_the_area_under_a_curve_is_the_integral_over_the_range(
    gaps: list[tuple[int, float]],
) -> None:
    steps, values = list(accumulate(gap for gap, _ in gaps)), [value for _, value in gaps]
    history = History()
    for step, value in zip(steps, values, strict=True):
        history.validations.append(Validation(step, {"validation/x": value}))
    expected = trapezoid(values, steps) / (steps[-1] - steps[0]) if len(gaps) > 1 else values[0]
    assert history.area_under_curve("validation/x") == pytest.approx(expected)


class Clock:
    """A clock that a test advances."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


def test_training_time_and_validation_time_are_measured_separately(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, logged = Clock(), []
    monkeypatch.setattr(module, "time", clock)
    history = History()
    data = SimpleNamespace(monitor="per", mode="min")
    task: Any = SimpleNamespace(tokens=torch.tensor(0), device=torch.device("cpu"), data=data)
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((step, metrics)))
    metrics = {"validation/per": torch.tensor(0.5), "train/loss": torch.tensor(1.0)}
    trainer: Any = SimpleNamespace(loggers=[logger], global_step=0, callback_metrics=metrics)
    history.on_train_start(trainer, task)
    for step, training, validation in [(10, 4.0, 3.0), (20, 6.0, 1.0)]:
        clock.tick(training)
        task.tokens += 100
        trainer.global_step = step
        history.on_validation_start(trainer, task)
        clock.tick(validation)
        history.on_validation_end(trainer, task)
    kept = history.state_dict()
    clock.tick(2.0)
    history.on_train_end(trainer, task)
    assert history.seconds == pytest.approx(16.0)
    assert history.training_seconds == pytest.approx(12.0)
    assert history.validation_seconds == pytest.approx(4.0)
    costs = ["cost/tokens_per_second", "cost/training_seconds"]
    assert [(step, *(metrics[name] for name in costs)) for step, metrics in logged] == [
        (10, pytest.approx(25.0), pytest.approx(4.0)),
        (20, pytest.approx(20.0), pytest.approx(10.0)),
    ]
    assert logged[-1][1]["cost/peak_memory_bytes"] > 0
    assert history.validations == [(step, {"validation/per": 0.5}) for step in (10, 20)]

    clock.tick(1000.0)  # the run is interrupted
    again = History()
    again.load_state_dict(kept)
    clock.tick(5.0)
    again.on_train_start(trainer, task)
    clock.tick(3.0)
    again.on_validation_start(trainer, task)
    assert again.training_seconds == pytest.approx(13.0)
    assert again.validation_seconds == pytest.approx(4.0)
    assert again.seconds == pytest.approx(14.0 + 8.0)
    assert logged[-1][1]["cost/tokens_per_second"] == pytest.approx(200 / 13)
    assert again.validations == history.validations
    assert again.peak_memory_bytes == history.peak_memory_bytes > 0
