"""The recorded status of runs that fail, diverge or are refused."""

import errno
import math
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attention_lab.config.components import ConfigError
from attention_lab.tracking import run_directory
from attention_lab.tracking.run_directory import RunExists
from attention_lab.training.finite import Diverged
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose, FinishedRun
from tests.runs import launch, train
from tests.training.conftest import Train, read_status


def files(directory: Path) -> dict[Path, bytes]:
    """The content of every file below a directory."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def run_that_fails(
    error: BaseException, config: dict[str, Any], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The status of a run whose third step raises an error."""
    step = AttentionTask.training_step

    def raise_in_third_step(self: AttentionTask, batch: Any, batch_index: int) -> Tensor:
        if batch_index == 2:
            raise error
        return step(self, batch, batch_index)

    monkeypatch.setattr(AttentionTask, "training_step", raise_in_third_step)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises((type(error), SystemExit)):
        train(config, directory, [])
    assert signal.getsignal(signal.SIGINT) == handler  # so a second Ctrl-C works, too
    assert not (directory / "result.json").exists()
    return read_status(directory)


def test_a_run_that_raises_is_recorded_as_failed_with_the_reason(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("out of luck")
    status = run_that_fails(error, tiny_digits(), tmp_path / "run", monkeypatch)
    assert (status["status"], status["error"]) == ("failed", "RuntimeError: out of luck")
    assert status["finished"] is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(15)])
def test_an_interrupted_run_is_recorded_as_preempted(
    error: BaseException, tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = run_that_fails(error, tiny_digits(), tmp_path / "run", monkeypatch)
    assert (status["status"], status["error"]) == ("preempted", "interrupted")


@pytest.mark.parametrize(
    ("log_every", "message"),
    [
        (1, "the training loss is nan at step 2"),
        (20, "the validation loss is nan at step 4"),  # the training loss is not checked before
    ],
)
def test_an_exploding_loss_ends_the_run_as_diverged(
    log_every: int, message: str, tiny_digits: Compose, tmp_path: Path
) -> None:
    config = tiny_digits("optimizer.lr=1e30", f"trainer.log_every_n_steps={log_every}")
    with pytest.raises(Diverged, match=message):
        train(config, tmp_path / "run", [])
    status = read_status(tmp_path / "run")
    assert (status["status"], status["error"]) == ("diverged", message)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_nan_loss_after_a_valid_checkpoint_ends_the_run_as_diverged(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = AttentionTask.training_step

    def turn_nan(self: AttentionTask, batch: Any, batch_index: int) -> Tensor:
        return step(self, batch, batch_index) * (float("nan") if self.global_step == 6 else 1)

    monkeypatch.setattr(AttentionTask, "training_step", turn_nan)
    with pytest.raises(Diverged, match="the training loss is nan at step 7"):
        train(tiny_digits(), tmp_path / "run", [])
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    assert read_status(tmp_path / "run")["status"] == "diverged"
    assert not (tmp_path / "run" / "result.json").exists()


def test_the_directory_of_a_finished_run_is_refused(digits_run: FinishedRun) -> None:
    before = files(digits_run.directory)
    with pytest.raises(RunExists, match="holds a run that has finished; name another directory"):
        train(digits_run.config, digits_run.directory, [])
    assert files(digits_run.directory) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=0", "max_epochs must be at least 1, got 0"),
        ("trainer.max_epochs=-2", "max_epochs must be at least 1, got -2"),
        ("trainer.max_epochs=-1", "max_epochs=-1 never ends; set max_steps, too"),
        ("trainer.gradient_clip_val=0.0", "gradient_clip_val must be above 0, got 0.0"),
        (
            "trainer.val_check_interval=0.0",
            "so a fraction of an epoch, above 0 and at most 1",
        ),
        ("trainer.val_check_interval=2.0", "use check_val_every_n_epoch for more than one epoch"),
        ("trainer.val_check_interval=0", "val_check_interval must be at least 1 batch, got 0"),
        ("trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch must be at least 1, got 0"),
        ("trainer.max_steps=0", "max_steps must be at least 1, got 0"),
        ("trainer.log_every_n_steps=0", "log_every_n_steps must be at least 1, got 0"),
        ("optimizer.lr=nan", "optimizer.lr: must be a finite number, got nan"),
        ("model.dropout=nan", "model.dropout: must be a finite number, got nan"),
        ("optimizer.betas=[0.9,inf]", "optimizer.betas: must be a finite number, got inf"),
        ("trainer.gradient_clip_val=nan", "gradient_clip_val: must be a finite number"),
        ("trainer.val_check_interval=inf", "val_check_interval: must be a finite number"),
        ("optimizer.lr=-1.0", "Invalid learning rate: -1.0"),
        ("optimizer.lr=fast", "optimizer.lr: input should be a valid number; got 'fast'"),
        ("data.batch_size=0", "batch_size must be at least 1, got 0"),
        ("model.d_model=0", "d_model must be at least 1, got 0"),
        ("attention.num_heads=5", "embed_dim=16 is not divisible by num_heads=5"),
        ("attention.dropout=1.0", r"dropout must be in \[0, 1\), got 1.0"),
        ("attention.backend=fast", "one of sdpa, fused, tiled, eager, flex; got 'fast'"),
        ("seed=-1", "seed: must be a whole number"),
    ],
)
def test_an_invalid_config_writes_nothing(
    override: str, message: str, tiny_digits: Compose, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(tiny_digits(override), tmp_path / "sweep" / "run", [])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_model_for_another_task_than_the_data_writes_nothing(
    compose: Compose, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="EncoderDecoder is for sequence_to_sequence"):
        train(compose("data=digits", "model=encoder_decoder"), tmp_path / "run", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_saved_weights_are_finite(tiny_digits: Compose, tmp_path: Path) -> None:
    options = ["optimizer.lr=1e30", "scheduler.warmup_steps=0", "trainer.log_every_n_steps=20"]
    with pytest.raises(Diverged, match=r"the .* is (nan|inf) at step"):
        train(tiny_digits(*options, "trainer.every_n_train_steps=1"), tmp_path / "run", [])
    assert read_status(tmp_path / "run")["status"] == "diverged"
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        for weight in torch.load(path, weights_only=True)["state_dict"].values():
            assert weight.isfinite().all(), path


def test_an_infinite_gradient_ends_the_run_as_diverged(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *given: clip(*given) * math.inf)
    with pytest.raises(Diverged, match="the norm of the gradient is inf at step 1"):
        train(tiny_digits("trainer.gradient_clip_val=1.0"), tmp_path / "run", [])


def test_an_unavailable_gpu_writes_nothing(tiny_digits: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accelerator"):
        launch(tiny_digits("trainer=gpu"), tmp_path / "run", [])
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_reported_in_one_line(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"data=digits needs scikit-learn: pip install"):
        train(tiny_digits(), tmp_path / "run", [])
    assert not list(tmp_path.iterdir())


def test_a_validation_set_may_be_smaller_than_the_number_of_attention_maps(
    tiny: Compose, trained: Train
) -> None:
    directory = trained(tiny("data.evaluation_limit=2"))
    assert read_status(directory)["status"] == "finished"


@pytest.mark.parametrize(("number", "status"), [(errno.EIO, "failed"), (errno.ENOSPC, "preempted")])
def test_a_run_that_cannot_write_its_result_has_not_finished(
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: str,
) -> None:
    """A run on a full disk is preempted, and resumes when there is space."""
    write = run_directory.write_atomically

    def refuse_results(path: Path, text: str, durable: bool = True) -> None:
        if path.name == "result.json":
            raise OSError(number, "refused")
        write(path, text, durable)

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "write_atomically", refuse_results)
        with pytest.raises(OSError, match="refused"):
            train(tiny_digits(), tmp_path / "run", [])
    assert read_status(tmp_path / "run")["status"] == status
    train(tiny_digits(), tmp_path / "run", [])
    assert read_status(tmp_path / "run")["status"] == "finished"
