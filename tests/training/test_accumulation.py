"""Accumulated batches take the steps of one large batch, and runs resume between steps."""

import copy
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from attention_lab.training.lightning_loops import is_accumulating
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import build, train
from tests.training.conftest import (
    Interrupt,
    SignalIn,
    assert_identical,
    read_metrics,
    result,
    train_until_interrupted,
    train_until_preempted,
)

#: Steps whose losses are compared; each loss depends on all gradients before it.
STEPS = 50


def losses(directory: Path) -> list[float]:
    return [loss for _, loss in read_metrics(directory, "train/loss")]


@pytest.mark.parametrize(
    "options",
    [
        ["data=digits"],
        ["data=reverse", "data.examples=300"],  # of different lengths
        ["data=g2p", "data.limit=2000", "data.evaluation_limit=20", "data.packing=true"],
        ["data=digits", "trainer.gradient_clip_val=null", "optimizer=sgd"],
        ["data=digits", "optimizer=muon"],
        ["data=recall", "data.examples=300", "model.num_layers=1"],
    ],
)
def test_four_quarters_of_a_batch_train_as_the_whole_batch(
    options: list[str], compose: Compose, tmp_path: Path
) -> None:
    common = [
        *(*options, "model.d_model=16", "model.dropout=0", "trainer=cpu", "logger=csv"),
        *(f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1", "trainer.max_epochs=100"),
        *("trainer.check_val_every_n_epoch=100", "optimizer.lr=0.01"),
    ]
    train(compose(*common, "data.batch_size=64"), tmp_path / "whole", [])
    quarters = ("data.batch_size=16", "trainer.accumulate_grad_batches=4")
    train(compose(*common, *quarters), tmp_path / "quarters", [])
    whole, ours = losses(tmp_path / "whole"), losses(tmp_path / "quarters")
    assert len(whole) == len(ours) == STEPS
    assert len(set(whole)) > 40
    assert ours[:10] == pytest.approx(whole[:10], rel=2e-6)
    assert ours == pytest.approx(whole, rel=1e-4)
    tokens = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["tokens"]
        for name in ("whole", "quarters")
    ]
    assert tokens[0] == tokens[1]


#: 24 steps on two batches each, some of which validate between their batches, with dropout.
OPTIONS = (
    *("attention.dropout=0.2", "data.batch_size=53", "trainer.accumulate_grad_batches=2"),
    *("trainer.max_epochs=2", "trainer.val_check_interval=5", "trainer.log_every_n_steps=3"),
)


@pytest.fixture(scope="module")
def config(tiny_digits: Compose) -> dict[str, Any]:
    return tiny_digits(*OPTIONS)


@pytest.fixture(scope="module")
def whole(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    train(config, directory, [])
    return directory


def test_steps_are_counted_and_validations_come_after_them(
    whole: Path, config: dict[str, Any]
) -> None:
    assert result(whole)["steps"] == 24
    # Batches 5, 10, 15 … of all epochs, after their steps.
    validated = [step for step, _ in read_metrics(whole, "validation/loss")]
    assert validated == [3, 5, 8, 10, 13, 15, 18, 20, 23, 24]
    assert [step for step, _ in read_metrics(whole, "train/loss")] == list(range(2, 24, 3))


@pytest.mark.parametrize("steps", [[3], [4, 8, 15], [23]])
def test_a_run_that_is_cut_between_batches_of_a_step_resumes_exactly(
    steps: list[int],
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    interrupt_after: Interrupt,
) -> None:
    often = config | {"trainer": {**config["trainer"], "every_n_train_steps": 2}}
    for number in steps:
        interrupt_after(number)
        train_until_interrupted(often, tmp_path / "run")
        torch.rand(7), random.random()  # another process draws other numbers
    train(often, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


@pytest.mark.parametrize("steps", [[1, 2, 3], [5, 12], [13, 24]])
def test_a_signal_between_batches_of_a_step_stops_the_run_after_it(
    steps: list[int],
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    signal_in: SignalIn,
) -> None:
    for number in steps:
        signal_in(AttentionTask, "training_step", lambda self, n=number: self.global_step == n - 1)
        reason = train_until_preempted(config, tmp_path / "run")
        assert reason == f"SIGUSR1: saved at step {number}"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [3, 24])
def test_an_interrupted_validation_is_repeated(
    step: int, config: dict[str, Any], whole: Path, tmp_path: Path, signal_in: SignalIn
) -> None:
    signal_in(AttentionTask, "validation_step", lambda self: self.global_step == step)
    assert train_until_preempted(config, tmp_path / "run") == f"SIGUSR1: saved at step {step}"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


def test_a_run_that_a_callback_stops_between_batches_takes_the_step(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would stop there, and the run would have no validation of its last step."""
    run = build(config)
    accumulating: list[bool] = []

    class Stop(Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            if trainer.global_step == 6 and is_accumulating(trainer):
                trainer.should_stop = True

        def on_validation_start(self, trainer: lightning.Trainer, *_: Any) -> None:
            accumulating.append(is_accumulating(trainer))

    trainer = run.trainer_options.trainer(tmp_path, [Stop()], [])
    trainer.fit(run.task, datamodule=run.data)
    assert trainer.global_step == 7
    assert accumulating == [False] * 3  # of batches 5 and 10, and of the last step


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("scaled", "tolerance"), [(False, 1e-5), (True, 2e-2)])
def test_the_last_batches_of_an_epoch_are_a_step_of_their_own(
    scaled: bool, tolerance: float, compose: Compose
) -> None:
    """With a loader that does not know of steps, such as a user's, in a plain Trainer.

    Lightning refuses 16-mixed on the CPU, so its plugin is given.
    """
    options = ["data=reverse", "data.examples=100", "data.batch_size=20", "scheduler=constant"]
    network = ["model.d_model=16", "model.dropout=0", "optimizer=sgd", "optimizer.lr=1"]
    network.append("optimizer.momentum=0")
    run = build(compose(*options, *network, "scheduler.warmup_steps=0", "trainer=cpu"))
    batches = list(run.data.train_dataloader())
    assert len(batches) == 5
    scaler = torch.amp.GradScaler("cpu", init_scale=1024)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=3,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)] if scaled else None,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    expected = {name: p.detach().clone() for name, p in run.task.model.named_parameters()}
    reference = copy.deepcopy(run.task.model)
    trainer.fit(run.task, torch.utils.data.DataLoader(batches, batch_size=None))
    assert trainer.global_step == 2
    trained = dict(run.task.model.named_parameters())
    run.task.model = reference
    for part in (batches[:3], batches[3:]):
        reference.load_state_dict(expected)
        expected = {
            name: p.detach() - p.grad
            for name, p in _with_gradients(run.task, part)
            if p.grad is not None
        }
    for name, value in expected.items():
        torch.testing.assert_close(trained[name].detach(), value, rtol=tolerance, atol=tolerance)


def _with_gradients(task: AttentionTask, batches: list[Any]) -> Iterable[tuple[str, nn.Parameter]]:
    """The parameters, with the gradients of the mean loss over all labels of some batches."""
    task.model.zero_grad()
    losses = [task.loss(batch) for batch in batches]
    labels = torch.stack([torch.as_tensor(loss.labels) for loss in losses])
    assert len(set(labels.tolist())) > 1
    (torch.stack([loss.mean for loss in losses]) @ (labels / labels.sum())).backward()
    return task.model.named_parameters()
