"""What a run records: ``result.json`` and ``metrics.csv``."""

import pytest
from scipy.integrate import trapezoid

from attention_lab.attention import attention_layers
from tests.conftest import Compose, FinishedRun
from tests.runs import build
from tests.training.conftest import (
    Train,
    read_metrics,
    read_result,
    read_weights,
)


def test_the_result_has_every_field(run: FinishedRun) -> None:
    result = run.result
    assert result == read_result(run.directory)
    assert result.keys() == {
        "task",
        "validation",
        "last",
        "test",
        "trivial_baseline",
        "shortcut_baselines",
        "monitor",
        "mode",
        "bounds",
        "parameters",
        "tokens_per_second",
        "peak_memory_bytes",
        "steps",
        "best_step",
        "steps_to_threshold",
        "area_under_curve",
        "attention_mismatches",
        "compiled",
        "threshold",
        "seconds",
        "backends",
    }
    assert result["validation"].keys() == result["test"].keys()
    assert result["monitor"] in result["test"]
    assert result["trivial_baseline"].keys() <= result["test"].keys()
    assert result["bounds"].keys() == {name for name in result["test"] if "/" not in name}
    assert 10**7 < result["peak_memory_bytes"] < 10**11
    seconds = result["seconds"]
    assert seconds.keys() == {
        "total",
        "training",
        "validation",
        "attention_maps",
        "predictions",
    }
    assert all(0 < value < seconds["total"] for name, value in seconds.items() if name != "total")
    assert seconds["training"] + seconds["validation"] < seconds["total"]


def test_the_result_counts_tokens_steps_and_parameters(run: FinishedRun) -> None:
    built, result = build(run.config), run.result
    data, model = built.data, built.task.model
    epochs = run.config["trainer"]["max_epochs"]
    train = data.split("train")
    lengths = train.lengths().sum(0)
    if result["task"] == "sequence_to_sequence":
        tokens = int(lengths[0] + lengths[1] - len(train.index))  # BOS is not predicted
    else:
        tokens = int(lengths[0])
    trained_on = result["tokens_per_second"] * result["seconds"]["training"]
    assert round(trained_on) == epochs * tokens
    assert result["steps"] == epochs * len(data.train_dataloader())
    weights = read_weights(run.directory)
    names = {name for name, _ in model.named_parameters()}
    held = sum(value.numel() for name, value in weights.items() if name[6:] in names)
    assert result["parameters"] == held
    assert result["trivial_baseline"] == data.trivial_baseline("test")
    assert result["threshold"] == data.trivial_baseline("validation")[data.monitor]
    backend = "fused" if "Additive" in run.config["attention"]["score"]["_target_"] else "sdpa"
    assert result["backends"] == dict.fromkeys(attention_layers(model), backend)


def test_steps_to_threshold_is_the_step_of_the_first_better_validation(
    digits_run: FinishedRun, words_run: FinishedRun
) -> None:
    values = [value for _, value in read_metrics(digits_run.directory, "validation/accuracy")]
    better = [value > digits_run.result["threshold"] for value in values]
    assert any(better)
    assert digits_run.result["steps_to_threshold"] == 4 * (better.index(True) + 1)
    values = [value for _, value in read_metrics(words_run.directory, "validation/per")]
    assert min(values) > words_run.result["threshold"]
    assert words_run.result["steps_to_threshold"] is None


def test_the_result_summarizes_the_learning_curve(run: FinishedRun) -> None:
    result = run.result
    curve = read_metrics(run.directory, f"validation/{result['monitor']}")
    assert result["last"][result["monitor"]] == curve[-1][1]
    assert result["last"].keys() == result["validation"].keys()
    steps, values = zip(*curve, strict=True)
    mean = trapezoid(values, steps) / (steps[-1] - steps[0])
    assert result["area_under_curve"] == pytest.approx(mean)
    assert min(values) <= mean <= max(values)


def test_metrics_have_a_row_for_each_step_and_each_validation(run: FinishedRun) -> None:
    steps, epochs = run.result["steps"], run.config["trainer"]["max_epochs"]
    losses = read_metrics(run.directory, "train/loss")
    assert [step for step, _ in losses] == list(range(steps))
    assert len(read_metrics(run.directory, "cost/tokens_per_second")) == epochs
    for name, value in run.result["validation"].items():
        rows = read_metrics(run.directory, f"validation/{name}")
        assert len(rows) == epochs
        assert value in [value for _, value in rows]
    for name, value in run.result["test"].items():
        assert [tested for _, tested in read_metrics(run.directory, f"test/{name}")] == [value]


@pytest.mark.parametrize("every", [1, 3])
def test_the_training_loss_is_logged_every_n_steps(
    every: int, tiny_digits: Compose, trained: Train
) -> None:
    directory = trained(tiny_digits(f"trainer.log_every_n_steps={every}"))
    losses = read_metrics(directory, "train/loss")
    steps = [step for step, _ in losses]
    assert steps == [step for step in range(8) if (step + 1) % every == 0 or step == 7]
    assert len({loss for _, loss in losses}) == len(losses)  # the last step has its own loss


def test_the_learning_rate_is_logged_at_every_step(run: FinishedRun) -> None:
    rates = read_metrics(run.directory, "train/learning_rate")
    assert len(rates) == run.result["steps"]


def test_validation_metrics_are_logged_at_the_number_of_training_steps(
    digits_run: FinishedRun,
) -> None:
    rows = read_metrics(digits_run.directory, "validation/accuracy")
    assert [step for step, _ in rows] == [4, 8, 12, 16, 20]
    assert rows[digits_run.result["best_step"] // 4 - 1][1] == max(value for _, value in rows)
    assert read_metrics(digits_run.directory, "test/accuracy")[0][0] == 20
