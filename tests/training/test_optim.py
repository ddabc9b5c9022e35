"""The learning rate at each step, and what decays."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from attention_lab.training.optim import OptimizerOptions
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import build, train
from tests.training.conftest import Train


def warmup_then_cosine(step: int, total: int, peak: float, warmup: int, end: float) -> float:
    """The rate of a step, as one would draw it: up a straight line, down half a cosine."""
    if step < warmup:
        return (step + 1) * peak / warmup
    bottom = end * peak
    angle = math.pi * (step - warmup) / (total - 1 - warmup)
    return bottom + (peak - bottom) * (math.cos(angle) + 1) / 2


@pytest.mark.parametrize(("warmup", "end"), [(0, 0.0), (1, 0.05), (7, 0.5), (20, 1.0)])
def test_warmup_and_cosine_follow_the_formula(warmup: int, end: float) -> None:
    options = OptimizerOptions(lr=3e-3, warmup_steps=warmup, final_fraction=end)
    for step in range(50):
        expected = warmup_then_cosine(step, 50, 3e-3, warmup, end)
        assert options.learning_rate(step, 50) == pytest.approx(expected)


def test_points_one_knows_without_a_formula() -> None:
    options = OptimizerOptions(lr=1.0, warmup_steps=4, final_fraction=0.2)
    rates = [options.learning_rate(step, 13) for step in range(13)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.6)  # half way between 1 and 0.2
    assert rates[12] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert options.learning_rate(100, 13) == pytest.approx(0.2)


def test_a_constant_rate_is_constant_after_the_warmup() -> None:
    options = OptimizerOptions(lr=2.0, warmup_steps=2, schedule="constant")
    assert [options.learning_rate(step, 5) for step in range(5)] == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_a_run_shorter_than_its_warmup_never_leaves_it() -> None:
    options = OptimizerOptions(lr=1.0, warmup_steps=10)
    assert [options.learning_rate(step, 3) for step in range(3)] == [0.1, 0.2, 0.3]
    for total in (10, 11):  # nothing, and a single step, is left for the cosine
        assert options.learning_rate(9, total) == 1.0
        assert options.learning_rate(10, total) == 1.0


def test_the_scheduler_sets_the_rate_of_every_group_before_each_step() -> None:
    options = OptimizerOptions(lr=0.1, warmup_steps=3)
    optimizer = options.optimizer(nn.Linear(2, 2))
    scheduler = options.scheduler(optimizer, total_steps=8)
    for step in range(8):
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(options.learning_rate(step, 8))
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_real_run_trains_at_the_rates_of_the_formula(
    schedule: str, tiny_digits: Compose, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[set[float]] = []

    def spy(_: AttentionTask, optimizer: torch.optim.Optimizer) -> None:
        rates.append({group["lr"] for group in optimizer.param_groups})

    monkeypatch.setattr(AttentionTask, "on_before_optimizer_step", spy)
    options = [f"optimizer.schedule={schedule}", "optimizer.warmup_steps=3", "optimizer.lr=0.01"]
    trained(tiny_digits(*options, "optimizer.final_fraction=0.1"))
    for step, seen in enumerate(rates):
        expected = warmup_then_cosine(step, 8, 0.01, 3, 0.1)
        if schedule == "constant" and step >= 3:
            expected = 0.01
        assert list(seen) == [pytest.approx(expected)]
    assert len(rates) == 8


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        model[2].bias.fill_(1.0)
        before["2.bias"] = torch.ones(4)
    optimizer = OptimizerOptions(lr=0.5, weight_decay=0.2).optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        kept = 1 - 0.5 * 0.2 if name in ("0.weight", "1.weight") else 1.0
        torch.testing.assert_close(value, kept * before[name], msg=name)


def test_every_trained_parameter_is_optimized_once_and_frozen_ones_never() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight.requires_grad_(False)
    optimizer = OptimizerOptions().optimizer(model)
    optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_the_first_step_is_adams() -> None:
    """With zero moments Adam's first step is lr · sign(gradient), and the betas are ours."""
    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    optimizer = OptimizerOptions(lr=0.01, weight_decay=0.0, betas=[0.5, 0.9]).optimizer(model)
    model(torch.tensor([1.0, -2.0, 3.0])).backward()
    optimizer.step()
    moved = model.weight - before
    torch.testing.assert_close(moved, -0.01 * torch.tensor([[1.0, -1.0, 1.0]]))
    (moments,) = [optimizer.state[p] for p in [model.weight]]
    torch.testing.assert_close(moments["exp_avg"], 0.5 * torch.tensor([[1.0, -2.0, 3.0]]))
    torch.testing.assert_close(moments["exp_avg_sq"], 0.1 * torch.tensor([[1.0, 4.0, 9.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": -1.0}, "lr must be above 0, got -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"betas": [0.9]}, r"betas must be two numbers in \[0, 1\), got \[0.9\]"),
        ({"betas": [0.9, 1.0]}, r"betas must be two numbers in \[0, 1\), got \[0.9, 1.0\]"),
        ({"betas": [-0.1, 0.9]}, r"betas must be two numbers"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"schedule": "linear"}, "schedule must be cosine or constant, got 'linear'"),
        ({"final_fraction": 1.1}, r"final_fraction must be in \[0, 1\], got 1.1"),
        ({"final_fraction": -0.1}, r"final_fraction must be in \[0, 1\], got -0.1"),
    ],
)
def test_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerOptions(**options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped(precision: str, tiny_digits: Compose, tmp_path: Path) -> None:
    """With so small a norm, plain gradient descent moves no further than it in a step."""

    def descent(_: OptimizerOptions, model: nn.Module, fused: bool) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1.0)

    def moved(clip: str) -> float:
        directory = tmp_path / clip
        options = [f"trainer.precision={precision}", f"trainer.gradient_clip_val={clip}"]
        config = tiny_digits(*options, "trainer.max_steps=1", "optimizer.weight_decay=0")
        before = {k: v.clone() for k, v in build(config).task.state_dict().items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OptimizerOptions, "optimizer", descent)
            patch.setattr(OptimizerOptions, "learning_rate", lambda self, *_: self.lr)
            train(config, directory, [])
        after = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return math.sqrt(sum(float((after[k] - v).square().sum()) for k, v in before.items()))

    assert moved("0.001") == pytest.approx(0.001, rel=0.01)
    assert moved("null") > 0.01


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_precision_trains(precision: str, tiny_digits: Compose, tmp_path: Path) -> None:
    options = [f"trainer.precision={precision}", "trainer.max_steps=1"]
    assert train(tiny_digits(*options), tmp_path / "run", [])["steps"] == 1


@pytest.mark.parametrize(("precision", "is_fused"), [("32-true", True), ("16-mixed", False)])
def test_gradients_that_are_scaled_are_not_left_to_a_fused_optimizer(
    tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch, precision: str, is_fused: bool
) -> None:
    task = build(tiny_digits()).task
    trainer = SimpleNamespace(
        precision=precision,
        max_epochs=1,
        max_steps=10,
        limit_train_batches=1.0,
        accumulate_grad_batches=1,
    )
    monkeypatch.setattr(type(task), "trainer", trainer)
    optimizer = task.configure_optimizers()["optimizer"]
    assert optimizer.defaults["fused"] == is_fused
