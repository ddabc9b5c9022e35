"""Runs: learning, repeatability, results, metrics and selection of checkpoints."""

import copy
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from scipy.integrate import trapezoid
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from attention_lab.attention import attention_layers
from attention_lab.data.bundled.digits import Digits
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.tracking.attention_callback import AttentionMapCallback
from attention_lab.tracking.record_files import read_record
from attention_lab.training.evaluation import evaluate, restored
from attention_lab.training.finite import RequireFinite
from attention_lab.training.predictions_table import PredictionsTable
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.tasks.classification import Classification
from tests.conftest import Compose, FinishedRun
from tests.runs import build, train
from tests.training.conftest import (
    Train,
    read_metrics,
    read_status,
    read_weights,
    same_weights,
    stops_early,
)


def read_result(directory: Path) -> dict[str, Any]:
    return read_record(directory / "result.json")


def files(directory: Path) -> dict[Path, bytes]:
    """The content of every file below a directory."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(params=["words", "digits"])
def run(request: pytest.FixtureRequest) -> FinishedRun:
    """A finished run of each task."""
    finished: FinishedRun = request.getfixturevalue(f"{request.param}_run")
    return finished


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


# Results and metrics


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


# Selection


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Tensor]]:
    """Replaces validation accuracies by 0.2, 0.7, 0.7, 0.4 …; holds the weights of each."""
    weights: dict[int, dict[str, Tensor]] = {}
    script = iter([0.2, 0.7, 0.7, 0.4, 0.5, 0.3])

    def compute_metrics(self: AttentionTask, split: str) -> dict[str, Tensor]:
        if split == "validation":
            state = self.state_dict()
            weights[self.global_step] = {name: value.clone() for name, value in state.items()}
        return {"loss": torch.tensor(1.0), "accuracy": torch.tensor(next(script))}

    monkeypatch.setattr(Classification, "compute_metrics", compute_metrics)
    return weights


def test_best_and_last_are_the_checkpoints_of_the_best_and_the_last_validation(
    scripted: dict[int, dict[str, Tensor]], tiny_digits: Compose, trained: Train
) -> None:
    directory = trained(tiny_digits("trainer.max_epochs=4"))
    assert list(scripted) == [4, 8, 12, 16]
    assert same_weights(read_weights(directory, "best"), scripted[8])
    assert same_weights(read_weights(directory, "last"), scripted[16])
    assert not same_weights(scripted[8], scripted[16])
    result = read_result(directory)
    assert result["best_step"] == 8
    assert result["validation"]["accuracy"] == pytest.approx(0.7)
    assert result["test"]["accuracy"] == pytest.approx(0.5)
    names = {path.name for path in (directory / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "previous.ckpt"}


def test_evaluation_from_the_checkpoint_reproduces_the_result(run: FinishedRun) -> None:
    # Exactly, unless a GPU evaluates a run that was trained on the CPU.
    tolerance = 1e-3 if torch.cuda.is_available() else 0.0
    for split in ("test", "validation"):
        assert evaluate(restored(run.directory), split) == pytest.approx(
            run.result[split], rel=tolerance, abs=tolerance
        )
    for name, value in evaluate(restored(run.directory, "last"), "validation").items():
        logged = read_metrics(run.directory, f"validation/{name}")[-1][1]
        assert value == pytest.approx(logged, rel=tolerance, abs=tolerance)


def test_a_run_without_a_checkpoint_cannot_be_evaluated(
    digits_run: FinishedRun, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        evaluate(restored(tmp_path), "test")
    (tmp_path / "config.yaml").write_bytes((digits_run.directory / "config.yaml").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"best\.ckpt"):
        evaluate(restored(tmp_path), "test")


def test_a_run_on_a_relative_data_file_is_evaluated_from_another_directory(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = "".join(f"{a}{b}{c}\t{b}\n" for a in "abcdef" for b in "xy" for c in "stuvw")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "texts.tsv").write_text(texts)
    small = ("model.d_model=16", "trainer=cpu", "trainer.max_steps=1", "logger=csv")
    monkeypatch.chdir(tmp_path / "here")
    result = train(compose("data=labels", "data.train=texts.tsv", *small), tmp_path / "run", [])
    monkeypatch.chdir(tmp_path)
    assert evaluate(restored(tmp_path / "run"), "test") == pytest.approx(result["test"])


def test_test_data_is_not_read_before_training_ends(
    tiny_digits: Compose, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    split, fit = SplitDataModule.split, lightning.Trainer.fit

    def spy_on_split(self: SplitDataModule[Any], name: str) -> Any:
        events.append(name)
        return split(self, name)

    def spy_on_fit(*arguments: Any, **named: Any) -> None:
        fit(*arguments, **named)
        events.append("trained")

    monkeypatch.setattr(SplitDataModule, "split", spy_on_split)
    monkeypatch.setattr(lightning.Trainer, "fit", spy_on_fit)
    trained(tiny_digits())
    assert "test" not in events[: events.index("trained")]
    assert "test" in events


def test_test_labels_change_only_the_test_metrics(
    digits_run: FinishedRun, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Digits.load

    def with_wrong_test_labels(self: Digits) -> Any:
        splits = load(self)
        wrong = (splits["test"].labels + 1) % 10
        return splits | {"test": splits["test"]._replace(labels=wrong)}

    monkeypatch.setattr(Digits, "load", with_wrong_test_labels)
    directory = trained(digits_run.config)
    result = read_result(directory)
    assert result["test"] != digits_run.result["test"]
    for key in ("validation", "best_step", "steps", "threshold", "steps_to_threshold"):
        assert result[key] == digits_run.result[key]
    for checkpoint in ("best", "last"):
        weights = read_weights(directory, checkpoint)
        assert same_weights(weights, read_weights(digits_run.directory, checkpoint))


@pytest.mark.parametrize(("patience", "steps"), [(1, 12), (2, 16), (None, 20)])
def test_training_stops_early_after_patience_validations(
    patience: int | None,
    steps: int,
    tiny_digits: Compose,
    trained: Train,
    request: pytest.FixtureRequest,
) -> None:
    """The second validation is the best; the next three are not better."""
    request.getfixturevalue("scripted")
    options = ["trainer.max_epochs=5", *(stops_early(patience) if patience else ())]
    directory = trained(tiny_digits(*options))
    assert read_result(directory)["steps"] == steps
    assert read_status(directory)["status"] == "finished"


# Validation, backends, clipping and profiling


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


def test_gradients_are_clipped_by_value(
    tiny_digits: Compose, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest: list[float] = []
    norms: list[float] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        largest.append(max(gradient.abs().max().item() for gradient in gradients))

    def check(_: RequireFinite, __: Any, task: AttentionTask, *___: Any) -> None:
        assert task.gradient_norm is not None
        norms.append(task.gradient_norm.item())

    monkeypatch.setattr(RequireFinite, "on_train_batch_end", check)
    hook = register_optimizer_step_post_hook(look)
    options = ("trainer.gradient_clip_val=0.001", "trainer.gradient_clip_algorithm=value")
    try:
        trained(tiny_digits(*options))
    finally:
        hook.remove()
    assert largest == [pytest.approx(0.001)] * 8
    assert min(norms) > 0.01, "the norm before clipping, which is checked for NaN"


def test_gradients_of_parameters_that_replace_others_are_clipped(tiny_digits: Compose) -> None:
    """As with FSDP, which shards the parameters of a task that was trained before."""
    task = build(tiny_digits()).task
    for _ in range(2):
        task.model = copy.deepcopy(task.model)
        parameters = list(task.model.parameters())
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = task.optimization.create_optimizer(task.model)
        task.configure_gradient_clipping(optimizer, 1.0, "norm")
        clipped = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        assert clipped == pytest.approx(1.0)


@pytest.mark.parametrize("profiler", ["simple", "advanced", "pytorch"])
def test_a_profiler_writes_into_the_run(
    profiler: str, tiny_digits: Compose, tmp_path: Path
) -> None:
    options = (f"trainer.profiler={profiler}", "trainer.detect_anomaly=true")
    train(tiny_digits(*options, "trainer.max_epochs=1"), tmp_path / "run", [])
    assert any((tmp_path / "run").glob("fit-profile*"))


@pytest.mark.parametrize(("clip", "clipped"), [("null", False), ("0.001", True)])
def test_gradients_are_clipped_to_their_norm(
    clip: str, clipped: bool, tiny_digits: Compose, trained: Train
) -> None:
    norms: list[float] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

    hook = register_optimizer_step_post_hook(look)
    try:
        trained(tiny_digits(f"trainer.gradient_clip_val={clip}"))
    finally:
        hook.remove()
    assert len(norms) == 8
    for norm in norms:
        assert norm == pytest.approx(0.001, rel=1e-2) if clipped else norm > 0.01
