"""Learning rate schedules follow the formulas of the papers and of PyTorch."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from attention_lab.training import lr_schedules
from attention_lab.training.lr_schedules import (
    WSD,
    Constant,
    Cosine,
    InverseSqrt,
    Linear,
    Plateau,
    Schedule,
    Step,
)
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.training.conftest import Train


def factors(schedule: Schedule, total: int, steps: int | None = None) -> list[float]:
    return [schedule.lr_factor(step, total) for step in range(steps or total)]


def cosine(step: int, total: int, warmup: int, end: float) -> float:
    """The factor in a step: a linear warm-up, then half a period of a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    angle = math.pi * (step - warmup) / (total - 1 - warmup)
    return end + (1 - end) * (math.cos(angle) + 1) / 2


@pytest.mark.parametrize(("warmup", "end"), [(0, 0.0), (1, 0.05), (7, 0.5), (20, 1.0)])
def test_cosine_follows_the_formula(warmup: int, end: float) -> None:
    schedule = Cosine(warmup_steps=warmup, min_lr_ratio=end)
    expected = [cosine(step, 50, warmup, end) for step in range(50)]
    assert factors(schedule, 50) == pytest.approx(expected)
    assert schedule.lr_factor(100, 50) == pytest.approx(end), "after the end"


def test_factors_at_known_steps() -> None:
    wsd = factors(WSD(warmup_steps=2, decay_fraction=0.5, min_lr_ratio=0.1), 11)
    assert wsd[:2] == [0.5, 1.0]
    assert wsd[2:7] == pytest.approx([1.0] * 5)
    assert wsd[7:] == pytest.approx([0.775, 0.55, 0.325, 0.1])
    assert factors(Linear(warmup_steps=2), 7) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25, 0])
    assert factors(Constant(warmup_steps=2), 4) == [0.5, 1.0, 1.0, 1.0]


def test_inverse_sqrt_follows_the_transformer_paper() -> None:
    """Vaswani et al. 2017, eq. 3: min(step^-0.5, step · warmup^-1.5), relative to its peak."""
    expected = [math.sqrt(40) * min(k**-0.5, k * 40**-1.5) for k in range(1, 300)]
    seen = factors(InverseSqrt(warmup_steps=40), 299)
    assert seen[:40] == pytest.approx(expected[:40])
    # The peak lasts one step longer than in the paper, as the warm-up ends at the full rate.
    assert seen[40:] == pytest.approx(expected[39:-1])


def test_step_equals_pytorchs_step_lr() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    reference = StepLR(optimizer, step_size=3, gamma=0.5)
    for seen in factors(Step(step_size=3, gamma=0.5), 10):
        assert seen == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_equals_pytorchs_reduce_lr_on_plateau(mode: Any) -> None:
    ours = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    theirs = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = Plateau(factor=0.5, patience=1, threshold=1e-2)
    scheduler = schedule.scheduler(ours, math.inf)
    reference = ReduceLROnPlateau(theirs, mode, factor=0.5, patience=1, threshold=1e-2)
    for value in [5.0, 4.0, 4.0, 3.99, 4.1, 3.0, 3.5, 2.99, 2.98, 3.1, 9.0, 9.01, 9.02]:
        reference.step(value)
        schedule.on_validation(scheduler, value, mode)
        ours.step()
        scheduler.step()
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    assert ours.param_groups[0]["lr"] < 1


def test_training_shorter_than_the_warmup_ends_in_the_warmup() -> None:
    assert factors(Cosine(warmup_steps=10), 3) == [0.1, 0.2, 0.3]
    for total in (10, 11):  # nothing, and a single step, is left for the cosine
        assert factors(Cosine(warmup_steps=10), total, 11)[9:] == [1.0, 1.0]


SCHEDULES = ("constant", "cosine", "linear", "inverse_sqrt", "wsd", "step", "plateau")


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_uses_the_learning_rates_of_its_schedule(
    name: str, tiny_digits: Compose, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[set[float]] = []

    def spy(_: AttentionTask, optimizer: torch.optim.Optimizer) -> None:
        rates.append({group["lr"] for group in optimizer.param_groups})

    monkeypatch.setattr(AttentionTask, "on_before_optimizer_step", spy)
    options = [f"scheduler={name}", "scheduler.warmup_steps=3", "optimizer.lr=0.01"]
    config = tiny_digits(*options, *(["scheduler.step_size=2"] if name == "step" else []))
    trained(config)
    arguments = {key: it for key, it in config["scheduler"].items() if key != "_target_"}
    made = getattr(lr_schedules, config["scheduler"]["_target_"].rpartition(".")[2])(**arguments)
    assert [list(seen) for seen in rates] == [
        [pytest.approx(0.01 * factor)] for factor in factors(made, 8)
    ]


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (Constant, {"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        (Cosine, {"min_lr_ratio": 1.1}, r"min_lr_ratio must be in \[0, 1\], got 1.1"),
        (Linear, {"min_lr_ratio": -0.1}, r"min_lr_ratio must be in \[0, 1\], got -0.1"),
        (WSD, {"decay_fraction": 0}, r"decay_fraction must be in \(0, 1\], got 0"),
        (Step, {"step_size": 0}, "step_size must be at least 1, got 0"),
        (Step, {"gamma": 2}, r"gamma must be in \(0, 1\], got 2"),
        (Plateau, {"factor": 1}, r"factor must be in \(0, 1\), got 1"),
        (Plateau, {"patience": -1}, "patience must be at least 0, got -1"),
        (Plateau, {"threshold": -1}, "threshold must be at least 0, got -1"),
    ],
)
def test_values_out_of_range_are_refused(
    schedule: type[Schedule], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**options)


def test_a_plateau_reduction_is_restored_from_a_checkpoint(tmp_path: Path) -> None:
    def make() -> tuple[Schedule, Any]:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        schedule = Plateau(factor=0.5, patience=0)
        return schedule, schedule.scheduler(optimizer, math.inf)

    schedule, scheduler = make()
    for value in (1.0, 1.0):
        schedule.on_validation(scheduler, value, "min")
    torch.save(scheduler.state_dict(), tmp_path / "scheduler")
    schedule, loaded = make()
    loaded.load_state_dict(torch.load(tmp_path / "scheduler", weights_only=True))
    loaded.optimizer.step()
    loaded.step()
    assert loaded.get_last_lr() == [0.5]
