"""Callbacks that a config chooses: which are allowed, how they resume, and what they evaluate."""

import copy
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.optim import Optimizer

from attention_lab.config.components import ConfigError
from attention_lab.config.identity import identity
from attention_lab.tracking import attention_callback
from attention_lab.training import callbacks
from attention_lab.training.checkpoint.checkpoint_io import read
from attention_lab.training.evaluation import evaluate, restored
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import build, train
from tests.training.conftest import (
    OPTIONS,
    Interrupt,
    SignalIn,
    assert_identical,
    read_metrics,
    read_weights,
    result,
    rows,
    same_weights,
    stops_early,
    train_until_interrupted,
    train_until_preempted,
)

LIGHTNING = "lightning.pytorch.callbacks"
EMA = ("callbacks=ema", "callbacks.ema.decay=0.7")
SWA = ("callbacks=swa", "callbacks.swa.update_starting_at_step=11")
CHECKPOINTS = ("callbacks=checkpoint_average", "callbacks.checkpoint_average.num_checkpoints=3")


class Weights(Callback):
    """A user's callback that keeps the weights after each step."""

    kept: ClassVar[list[dict[str, Tensor]]] = []

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.kept.append(copy.deepcopy(pl_module.state_dict()))


class Fails(Callback):
    """A user's callback whose constructor fails."""

    def __init__(self) -> None:
        raise RuntimeError("no camera\nwas found")


class NotACallback:
    """A user's class that is no callback."""


def with_callback(config: Mapping[str, Any], name: str, **node: Any) -> dict[str, Any]:
    """The config with one more callback."""
    return {**config, "callbacks": {**config["callbacks"], name: node}}


def own(name: str) -> str:
    """The ``_target_`` of a class of this file."""
    return f"{__name__}.{name}"


# Which callbacks a config can choose


def test_callbacks_merge_by_name(compose: Compose) -> None:
    config = compose("callbacks=[default,lr_monitor,early_stopping]", *stops_early(5)[1:])
    assert list(config["callbacks"]) == ["lr_monitor", "early_stopping"]
    assert config["callbacks"]["early_stopping"]["patience"] == 5
    for none in ("default", "none"):
        assert compose(f"callbacks={none}")["callbacks"] == {}


def test_the_metric_and_its_mode_are_the_datas_by_default(tiny_digits: Compose) -> None:
    config = tiny_digits("callbacks=early_stopping")
    for monitor, found in ((None, ("validation/accuracy", "max")), ("validation/loss",) * 2):
        config["callbacks"]["early_stopping"]["monitor"] = monitor
        (callback,) = build(config).callbacks
        assert isinstance(callback, EarlyStopping)
        expected = found if monitor is None else (monitor, "min")
        assert (callback.monitor, callback.mode) == expected


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": own("NotACallback")}, "callbacks.x._target_: tests.training.test_callbacks."),
        ({"_target_": "torch.nn.Linear"}, "callbacks.x._target_: torch.nn.Linear is not a Callba"),
        ({"_target_": "no_such.Thing"}, "callbacks.x._target_: cannot import no_such.Thing"),
        ({"_target_": own("Fails")}, "callbacks.x: no camera"),
        ({"_target_": own("Weights")}, "callbacks.x.every: is missing; Weights requires it"),
        ({"_target_": own("Weights"), "evry": 1}, "Weights has no such key; did you mean every?"),
        ({"_target_": f"{LIGHTNING}.ModelCheckpoint"}, "cannot be used; checkpoints are always"),
        ({"_target_": f"{LIGHTNING}.RichProgressBar"}, "use trainer.enable_progress_bar"),
        ({"_target_": f"{LIGHTNING}.EMAWeightAveraging"}, "use callbacks=ema or callbacks=swa"),
        (
            {"_target_": f"{LIGHTNING}.StochasticWeightAveraging", "swa_lrs": 0.1},
            "cannot be used; use callbacks=swa",
        ),
        (
            {"_target_": f"{LIGHTNING}.Timer", "duration": 5},
            "input should be a valid string, a valid timedelta or a valid dictionary; got 5",
        ),
        ({"_target_": f"{LIGHTNING}.Timer", "duration": "1h"}, "is not a valid duration"),
        ({"monitor": "loss"}, "callbacks.x: must be a mapping with a _target_"),
        ("early_stopping", "callbacks.x: must be a mapping with a _target_"),
    ],
)
def test_a_callback_that_cannot_be_used_is_refused_in_one_line(
    node: Any, message: str, tiny_digits: Compose
) -> None:
    config = tiny_digits()
    with pytest.raises(ConfigError) as caught:
        build({**config, "callbacks": {"x": node}})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (stops_early(0), "callbacks.early_stopping: patience must be at least 1, got 0"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=validation/acuracy"],
            "monitor: there is no metric validation/acuracy; did you mean validation/accuracy?",
        ),
        (["callbacks=ema", "callbacks.ema.decay=1.0"], "decay must be at least 0 and below 1"),
        (["callbacks=ema", "callbacks.ema.update_every_n_steps=0"], "must be at least 1, got 0"),
        (["callbacks=swa", "callbacks.swa.update_starting_at_step=-1"], "must be at least 0"),
        (
            ["callbacks=checkpoint_average", "callbacks.checkpoint_average.num_checkpoints=0"],
            "callbacks.checkpoint_average: num_checkpoints must be at least 1, got 0",
        ),
        (["callbacks=timer", "callbacks.timer.duration='00:00:00:00'"], "duration: must be above"),
        (["callbacks=timer", "callbacks.timer.interval=epoch"], "timer.interval: epoch may skip"),
        (["callbacks=[ema,swa]"], "callbacks.ema and callbacks.swa both average the weights"),
        (["callbacks=ema", "trainer.strategy=fsdp"], "cannot average weights with trainer.strat"),
    ],
)
def test_options_of_callbacks_that_cannot_work_are_refused(
    overrides: list[str], message: str, tiny_digits: Compose
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tiny_digits(*overrides))
    assert message in str(caught.value)


def test_two_callbacks_that_save_under_one_key_are_refused(tiny_digits: Compose) -> None:
    config = tiny_digits("callbacks=early_stopping")
    node = config["callbacks"]["early_stopping"]
    with pytest.raises(ConfigError, match=r"early_stopping and callbacks\.again are the same, E"):
        build(with_callback(config, "again", **node))
    build(with_callback(config, "again", **node | {"monitor": "validation/loss"}))


def test_device_statistics_of_the_cpu_need_psutil(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_digits("callbacks=device_stats")
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"needs psutil; pip install 'attention-lab\[device"):
            build(config)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises(ConfigError, match="needs psutil"):
            build(config)  # trainer.accelerator=cpu
        build(tiny_digits("callbacks=device_stats", "trainer.accelerator=gpu"))
    pytest.importorskip("psutil")
    train(config, tmp_path / "run", [])
    assert any(name.startswith("DeviceStatsMonitor") for name in rows(tmp_path / "run")[0])


class StepGradients(Callback):
    """A user's callback that keeps the norm of each step's gradient before it is clipped."""

    norms: ClassVar[list[float]] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(torch.cat(gradients).norm().item())


@pytest.mark.parametrize("clip", ["null", "0.01"])
@pytest.mark.parametrize("batches", [1, 2])
def test_the_norm_of_the_gradient_is_logged_with_the_loss(
    clip: str, batches: int, tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepGradients, "norms", [])
    options = (f"trainer.gradient_clip_val={clip}", f"trainer.accumulate_grad_batches={batches}")
    config = tiny_digits(*OPTIONS, *options, "callbacks=gradient_norm", "trainer.max_steps=11")
    train(with_callback(config, "steps", _target_=own("StepGradients")), tmp_path / "run", [])
    logged = read_metrics(tmp_path / "run", "train/gradient_norm")
    steps = [step for step, _ in read_metrics(tmp_path / "run", "train/loss")]
    assert [step for step, _ in logged] == steps == [2, 5, 8, 10], "the last, too"
    expected = [StepGradients.norms[step] for step in steps]
    assert [norm for _, norm in logged] == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 0.01


def test_accumulated_batches_log_the_learning_rate_once(
    tiny_digits: Compose, tmp_path: Path
) -> None:
    options = ("trainer.accumulate_grad_batches=3", "callbacks=lr_monitor")
    train(tiny_digits(*OPTIONS, *options), tmp_path / "run", [])
    found = rows(tmp_path / "run")
    steps = [row["step"] for row in found if any(row[name] for name in row if "lr-" in name)]
    assert steps == ["2", "5", "8"]


# Whose result they change


def test_callbacks_that_only_watch_are_no_part_of_the_identity(compose: Compose) -> None:
    watching = ("lr_monitor", "model_summary", "device_stats", "gradient_norm")
    plain = identity(compose())
    for name in watching:
        assert identity(compose(f"callbacks={name}")) == plain
    changing = ["ema", "swa", "checkpoint_average", "early_stopping", "timer"]
    known = {identity(compose(f"callbacks={name}")) for name in changing}
    known.add(identity(with_callback(compose(), "x", _target_=own("Weights"), every=1)))
    assert len(known | {plain}) == 7
    both = compose("callbacks=[ema,lr_monitor]")
    assert identity(both) == identity(compose("callbacks=ema"))


# Resuming


@pytest.mark.parametrize(
    ("options", "cuts"),
    [
        ((*EMA, "callbacks.ema.update_every_n_steps=3"), [7, 13]),
        (SWA, [5, 14]),
        (CHECKPOINTS, [7, 13, 22]),
        (
            (*stops_early(2), "callbacks.early_stopping.monitor=validation/loss", "optimizer.lr=1"),
            [11],
        ),
        ((*stops_early(1), "trainer.val_check_interval=1.0", "optimizer.lr=0.3"), [13]),
        (("callbacks=[lr_monitor,gradient_norm,model_summary]",), [7, 13]),
        (("callbacks=timer",), [7]),
    ],
)
def test_an_interrupted_run_with_callbacks_ends_bit_identical(
    options: tuple[str, ...],
    cuts: list[int],
    tiny_digits: Compose,
    tmp_path: Path,
    interrupt_after: Interrupt,
) -> None:
    config = tiny_digits(*OPTIONS, *options)
    train(config, tmp_path / "whole" / "run", [])
    for number in cuts:
        interrupt_after(number)
        train_until_interrupted(config, tmp_path / "run")
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")
    last = [read(run / "run/checkpoints/last.ckpt") for run in (tmp_path, tmp_path / "whole")]
    latest = [checkpoint.get("latest_weights", {}) for checkpoint in last]
    assert same_weights(*latest)
    assert bool(latest[0]) == (options[0] in (EMA[0], SWA[0], CHECKPOINTS[0]))


@pytest.mark.parametrize("options", [EMA, CHECKPOINTS])
@pytest.mark.parametrize("step", [10, 26])
def test_an_interrupted_validation_of_averaged_weights_is_repeated(
    options: tuple[str, ...], step: int, tiny_digits: Compose, tmp_path: Path, signal_in: SignalIn
) -> None:
    """The checkpoint must not hold the average as the weights to train on."""
    config = tiny_digits(*OPTIONS, *options)
    train(config, tmp_path / "whole" / "run", [])
    batch = itertools.count()
    signal_in(
        AttentionTask,
        "validation_step",
        lambda self: self.global_step == step and next(batch) == 1,
    )
    assert train_until_preempted(config, tmp_path / "run") == f"SIGUSR1: saved at step {step}"
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


def test_a_timer_counts_the_time_before_an_interruption(
    tiny_digits: Compose, tmp_path: Path, interrupt_after: Interrupt
) -> None:
    config = tiny_digits(*OPTIONS, "callbacks=timer")
    interrupt_after(7)
    train_until_interrupted(config, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = read(checkpoint)["callbacks"]["Timer"]["time_elapsed"]["train"]
    train(config, tmp_path / "run", [])
    assert read(checkpoint)["callbacks"]["Timer"]["time_elapsed"]["train"] > before > 0


def test_a_timer_ends_training_with_a_validation(tiny_digits: Compose, tmp_path: Path) -> None:
    config = tiny_digits("callbacks=timer", "trainer.check_val_every_n_epoch=2")
    config["callbacks"]["timer"]["duration"] = {"microseconds": 1}
    train(config, tmp_path / "run", [])
    assert result(tmp_path / "run")["steps"] == result(tmp_path / "run")["best_step"] == 1


# Averages of the weights


Average = Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]


def moving_average(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The average of EMA: 0.7 is its decay."""
    average = weights[0]
    for new in weights[1:]:
        average = {name: 0.7 * average[name] + 0.3 * new[name] for name in new}
    return average


def mean(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: sum(each[name] for each in weights) / len(weights) for name in weights[0]}


def mean_at_validations(weights: list[dict[str, Tensor]], number: int) -> dict[str, Tensor]:
    """The mean of the weights at the last validations: after each fifth step, and the 26th."""
    validated = [step for step in (5, 10, 15, 20, 25, 26) if step <= len(weights)]
    return mean([weights[step - 1] for step in validated[-number:]])


@pytest.mark.parametrize(
    ("options", "average", "line"),
    [
        (EMA, moving_average, "average of the weights (decay 0.7), from step 0 on"),
        (SWA, lambda all_: mean(all_[11:] or all_[-1:]), "mean of the weights, from step 11 on"),
        (CHECKPOINTS, lambda all_: mean_at_validations(all_, 3), "at the last 3 validations"),
        (
            (*CHECKPOINTS, "callbacks.checkpoint_average.num_checkpoints=9"),
            lambda all_: mean_at_validations(all_, 9),
            "at the last 9 validations",
        ),
    ],
)
def test_averages_are_saved_tested_and_evaluated(
    options: tuple[str, ...],
    average: Average,
    line: str,
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Weights, "kept", [])
    config = with_callback(
        tiny_digits(*OPTIONS, *options), "weights", _target_=own("Weights"), every=1
    )
    train(config, tmp_path / "run", [])
    assert f"{line}: it is validated, tested and saved" in capsys.readouterr().out
    run, weights = tmp_path / "run", Weights.kept
    last = read(run / "checkpoints" / "last.ckpt")
    assert same_weights(last["latest_weights"], weights[-1])
    for checkpoint, step in (("last", len(weights)), ("best", result(run)["best_step"])):
        saved, expected = read_weights(run, checkpoint), average(weights[:step])
        assert saved.keys() == expected.keys()
        for name, weight in saved.items():
            torch.testing.assert_close(weight, expected[name])
    assert evaluate(restored(run), "test") == result(run)["test"]
    accuracy = evaluate(restored(run, "last"), "validation")["accuracy"]
    assert accuracy == result(run)["last"]["accuracy"]


def test_an_average_does_not_change_training(tiny_digits: Compose, tmp_path: Path) -> None:
    """Until its first step, the latest weights are evaluated, too."""
    late = (*SWA, "callbacks.swa.update_starting_at_step=1000")
    runs = []
    for number, options in enumerate([(), late, EMA, CHECKPOINTS]):
        runs.append(tmp_path / str(number) / "run")
        train(tiny_digits(*OPTIONS, *options), runs[-1], [])
    plain, late_run, *others = runs
    assert_identical(late_run, plain)
    for other in others:
        assert read_metrics(other, "train/loss") == read_metrics(plain, "train/loss")
        assert rows(other) != rows(plain)


def test_maps_show_the_weights_that_were_validated(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, Tensor]] = []
    attention_maps = attention_callback.attention_maps

    def record(task: AttentionTask, *batch: Any) -> Any:
        shown.append(copy.deepcopy(task.state_dict()))
        return attention_maps(task, *batch)

    monkeypatch.setattr(attention_callback, "attention_maps", record)
    train(tiny_digits(*EMA), tmp_path / "run", [])
    assert same_weights(shown[-1], read_weights(tmp_path / "run"))
