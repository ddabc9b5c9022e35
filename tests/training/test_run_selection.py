"""Which checkpoint a run selects, when it stops early, and evaluation of the checkpoint."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from attention_lab.data.bundled.digits import Digits
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.training.evaluation import evaluate, restored
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.tasks.classification import Classification
from tests.conftest import Compose, FinishedRun
from tests.runs import train
from tests.training.conftest import (
    Train,
    read_metrics,
    read_result,
    read_status,
    read_weights,
    same_weights,
    stops_early,
)


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
