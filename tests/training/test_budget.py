"""The number of training steps with max_epochs, max_steps, both or neither."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer

from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.trainer import TrainerOptions
from tests.conftest import Compose
from tests.runs import build, train
from tests.training.conftest import read_metrics


@pytest.mark.parametrize(
    ("limits", "budget"),
    [
        ({}, "800 steps (10 epochs of 80 steps)"),
        ({"max_steps": 3000}, "3000 steps (37.5 epochs of 80 steps)"),
        ({"max_steps": 7}, "7 steps (0.0875 epochs of 80 steps)"),
        ({"max_steps": -1}, "800 steps (10 epochs of 80 steps)"),
        ({"max_epochs": 1}, "80 steps (1 epoch of 80 steps)"),
        ({"max_epochs": 3, "max_steps": -1}, "240 steps (3 epochs of 80 steps)"),
        ({"max_epochs": -1, "max_steps": 100}, "100 steps (1.25 epochs of 80 steps)"),
        ({"max_epochs": 2, "max_steps": 160}, "160 steps (2 epochs of 80 steps)"),
        (
            {"max_epochs": 10, "max_steps": 3000},
            "800 steps (10 epochs of 80 steps): trainer.max_epochs=10 comes before max_steps=3000",
        ),
        (
            {"max_epochs": 10, "max_steps": 200},
            "200 steps (2.5 epochs of 80 steps): trainer.max_steps=200 comes before max_epochs=10",
        ),
    ],
)
def test_the_smaller_of_max_epochs_and_max_steps_is_the_budget(
    limits: dict[str, int], budget: str
) -> None:
    assert TrainerOptions(**limits).budget(80) == budget


@pytest.mark.parametrize(
    ("options", "steps", "output"),
    [
        (["trainer.max_epochs=null", "trainer.max_steps=50"], 50, "50 steps (12.5 epochs of 4"),
        (["trainer.max_epochs=null"], 40, "training for 40 steps (10 epochs of 4 steps)"),
        (["trainer.max_steps=9"], 8, "trainer.max_epochs=2 comes before max_steps=9"),
    ],
)
def test_a_run_trains_for_the_printed_budget_and_its_schedule_ends_at_the_last_step(
    options: list[str],
    steps: int,
    output: str,
    tiny_digits: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "run"
    half = ["scheduler=cosine", "scheduler.warmup_steps=0", "scheduler.min_lr_ratio=0.5"]
    config = tiny_digits("trainer.check_val_every_n_epoch=99", *half, *options)
    assert train(config, directory, [])["steps"] == steps
    assert output in capsys.readouterr().out
    *_, (_, last_rate) = read_metrics(directory, "train/learning_rate")
    assert last_rate == pytest.approx(5e-4)


class _Rates(Callback):
    """The learning rate of every optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, _: Any, __: Any, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, 4),
        ({"max_epochs": 3, "limit_train_batches": 2}, 6),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 6),
        ({"max_steps": 5}, 5),
    ],
)
def test_a_plain_trainer_reaches_the_end_of_the_schedule(
    options: dict[str, Any], steps: int, tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    options_of_cosine = ("scheduler.warmup_steps=0", "scheduler.min_lr_ratio=0.25")
    run = build(tiny_digits("scheduler=cosine", *options_of_cosine))
    rates = _Rates()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[rates],
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(run.task, datamodule=run.data)
    assert len(rates.rates) == steps
    assert rates.rates[-1] == pytest.approx(rates.rates[0] / 4)


def test_a_cosine_schedule_without_a_limit_of_steps_is_refused(
    tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build(tiny_digits("scheduler=cosine", "scheduler.warmup_steps=0")).task
    monkeypatch.setattr(AttentionTask, "total_steps", math.inf)
    monkeypatch.setattr(AttentionTask, "trainer", Trainer(accelerator="cpu", logger=False))
    with pytest.raises(ValueError, match="scheduler=cosine needs an end: set trainer"):
        task.configure_optimizers()
