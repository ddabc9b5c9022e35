"""Runs: learning, repeatability, the steps of validations, and profiling."""

from pathlib import Path

import pytest
import torch

from attention_lab.attention import attention_layers
from attention_lab.tracking.attention_callback import AttentionMapCallback
from attention_lab.training.evaluation import restored
from attention_lab.training.predictions_table import PredictionsTable
from tests.conftest import Compose, FinishedRun
from tests.runs import build, train
from tests.training.conftest import (
    Train,
    read_metrics,
    read_result,
    read_status,
    read_weights,
    same_weights,
)


def files(directory: Path) -> dict[Path, bytes]:
    """The content of every file below a directory."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Learning


@pytest.mark.parametrize(
    "model",
    [
        ["model=encoder_decoder", "model.num_encoder_layers=1", "model.num_decoder_layers=1"],
        ["model=recurrent_encoder_decoder"],
    ],
)
@pytest.mark.usefixtures("tiny")
def test_models_memorize_a_few_words(model: list[str], compose: Compose) -> None:
    settings = ["trainer=cpu", "logger=csv", "data.limit=4", "data.evaluation_limit=3"]
    options = ["model.d_model=32", "model.dropout=0.0", "task.label_smoothing=0.0"]
    built = build(compose(*model, *settings, *options))
    task, batch = built.task, built.data.split("train")
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        loss = task.loss(batch).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    task.eval()
    task.update_metrics(batch, "train")
    assert float(task.compute_metrics("train")["per"]) < 0.1


def test_training_improves_the_validation_loss(digits_run: FinishedRun, trained: Train) -> None:
    config = dict(digits_run.config)
    config["optimizer"] = config["optimizer"] | {"lr": 0.03}
    losses = [loss for _, loss in read_metrics(trained(config), "validation/loss")]
    assert losses[-1] < 0.8 * losses[0]


# Repeatability


def test_the_same_seed_gives_the_same_run(words_run: FinishedRun, trained: Train) -> None:
    torch.rand(17)  # random numbers drawn earlier in the process do not matter
    again = trained(words_run.config)
    assert same_weights(read_weights(again), read_weights(words_run.directory))
    for column in ("train/loss", "validation/loss", "validation/per", "test/per"):
        metrics = read_metrics(again, column)
        assert metrics
        assert metrics == read_metrics(words_run.directory, column)
    for key in ("validation", "test", "best_step", "parameters", "steps"):
        assert read_result(again)[key] == words_run.result[key]


def test_recording_changes_no_result(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for callback in (AttentionMapCallback, PredictionsTable):
        monkeypatch.setattr(callback, "on_validation_end", lambda *_: None)
    unrecorded = train(run.config, tmp_path / "run", [])
    assert not (tmp_path / "run" / "attention").exists()
    assert not (tmp_path / "run" / "predictions.csv").exists()
    assert unrecorded["validation"] == run.result["validation"]
    assert unrecorded["test"] == run.result["test"]
    assert same_weights(read_weights(run.directory), read_weights(tmp_path / "run"))


def test_another_seed_gives_other_weights(digits_run: FinishedRun, trained: Train) -> None:
    other = trained(digits_run.config | {"seed": 3})  # data.seed stays: only weights differ
    assert not same_weights(read_weights(other), read_weights(digits_run.directory))
    assert read_metrics(other, "train/loss") != read_metrics(digits_run.directory, "train/loss")


def test_the_data_seed_sets_the_order_of_the_batches(tiny_digits: Compose, trained: Train) -> None:
    config = tiny_digits("seed=3")
    assert config["data"]["seed"] == 3
    one = trained(config)
    other = trained(config | {"data": config["data"] | {"seed": 4}})
    first = [read_metrics(run, "train/loss")[0] for run in (one, other)]
    assert first[0] != first[1]


# Validation, backends and profiling


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        (["trainer.val_check_interval=0.5"], [2, 4, 6, 8]),
        (["trainer.val_check_interval=0.75"], [3, 7, 8]),
        (["trainer.val_check_interval=3"], [3, 6, 8]),
        (["trainer.val_check_interval=6"], [6, 8]),
        (["trainer.check_val_every_n_epoch=2"], [8]),
        (["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"], [8, 12]),
        (["trainer.check_val_every_n_epoch=3"], [8]),
        (
            ["trainer.check_val_every_n_epoch=2", "trainer.val_check_interval=0.5"],
            [6, 8],
        ),
        (["trainer.max_steps=3"], [3]),
        (["trainer.max_steps=6"], [4, 6]),
        (["trainer.max_steps=3", "trainer.val_check_interval=0.5"], [2, 3]),
        (["trainer.max_steps=100"], [4, 8]),
    ],
)
def test_validations_run_at_their_interval_and_at_the_end(
    options: list[str], validated: list[int], tiny_digits: Compose, trained: Train
) -> None:
    directory = trained(tiny_digits(*options))
    maps = sorted(path.name for path in (directory / "attention").glob("step-*"))
    assert maps == [f"step-{step:06d}" for step in validated]
    assert len(read_metrics(directory, "validation/loss")) == len(validated)
    result = read_result(directory)
    assert result["steps"] == validated[-1]
    assert result["best_step"] in validated
    assert read_status(directory)["progress"]["step"] == validated[-1]
    step = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step == validated[-1]


def test_a_run_with_a_backend_that_cannot_train_here_is_restored(
    tiny_digits: Compose, trained: Train
) -> None:
    directory = trained(tiny_digits())
    config = directory / "config.yaml"
    config.write_text(config.read_text().replace("backend: auto", "backend: flex"))
    layers = attention_layers(restored(directory).task.model)
    assert {layer.backend.name for layer in layers.values()} == {"flex"}


@pytest.mark.parametrize("profiler", ["simple", "advanced", "pytorch"])
def test_a_profiler_writes_into_the_run(
    profiler: str, tiny_digits: Compose, tmp_path: Path
) -> None:
    options = (f"trainer.profiler={profiler}", "trainer.detect_anomaly=true")
    train(tiny_digits(*options, "trainer.max_epochs=1"), tmp_path / "run", [])
    assert any((tmp_path / "run").glob("fit-profile*"))
