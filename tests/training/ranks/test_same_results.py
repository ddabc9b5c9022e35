"""Training on two ranks gives the same results as training in one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.training.evaluation import evaluate, restored
from tests.conftest import Compose
from tests.runs import launch
from tests.training.conftest import read_status, read_weights, result, rows, same_weights
from tests.training.ranks.conftest import TWO
from tests.training.test_compilation import EXPRESSIONS, with_compile


def losses(directory: Path) -> list[float]:
    """The training loss of each step."""
    return [float(row["train/loss"]) for row in rows(directory) if row["train/loss"]]


@pytest.mark.parametrize(
    ("data", "metric", "strategies", "accumulated"),
    [
        ("data=digits", "accuracy", ["ddp", "fsdp"], 1),
        # Sequences differ in length: the mean over ranks would not be the mean over tokens.
        ("data=reverse data.examples=300", "token_error_rate", ["ddp", "fsdp"], 1),
        ("data=recall data.examples=300 model.num_layers=1", "accuracy", ["ddp"], 1),
        # Accumulated; with parameters that have no gradients.
        ("data=reverse data.examples=300 attention=none", "token_error_rate", ["ddp"], 4),
        ("data=digits", "accuracy", ["fsdp"], 2),
    ],
)
def test_two_ranks_train_like_one_process_on_the_same_batches(
    data: str,
    metric: str,
    strategies: list[str],
    accumulated: int,
    compose: Compose,
    tmp_path: Path,
) -> None:
    common = [
        *(*data.split(), "model.d_model=16", "model.dropout=0", "optimizer.lr=0.01"),
        *(
            "trainer.max_steps=50",
            "trainer.log_every_n_steps=1",
            "trainer.max_epochs=100",
            "logger=csv",
        ),
        "trainer.check_val_every_n_epoch=5",
    ]
    whole = 62 if accumulated == 1 else 64
    alone = ("trainer=cpu", f"data.batch_size={whole}", f"trainer.strategy={strategies[-1]}")
    launch(compose(*common, *alone), tmp_path / "one", [])
    one, theirs = losses(tmp_path / "one"), result(tmp_path / "one")
    assert len(one) == theirs["steps"] == 50
    assert len(set(one)) > 40
    for strategy in strategies:
        together = (*TWO, f"data.batch_size={whole // 2 // accumulated}")
        parts = (f"trainer.accumulate_grad_batches={accumulated}", f"trainer.strategy={strategy}")
        launch(compose(*common, *together, *parts), tmp_path / strategy, [])
        two, ours = losses(tmp_path / strategy), result(tmp_path / strategy)
        assert len(two) == ours["steps"] == 50, strategy
        # Adam amplifies small differences, so they grow with the steps.
        assert two[:10] == pytest.approx(one[:10], rel=2e-6), strategy
        assert two == pytest.approx(one, rel=1e-4), strategy
        of_two, of_one = ours["validation"][metric], theirs["validation"][metric]
        assert of_two == pytest.approx(of_one, abs=1e-2), strategy


def test_speed_counts_the_tokens_of_all_ranks(two: Path, one: Path) -> None:
    def tokens(directory: Path) -> int:
        path = directory / "checkpoints" / "last.ckpt"
        found: int = torch.load(path, weights_only=True)["tokens"]
        return found

    assert tokens(two) == tokens(one) > 0


def test_a_run_on_two_ranks_has_the_same_files_and_rows_as_on_one(two: Path, one: Path) -> None:
    names = [{path.relative_to(run).name for path in run.rglob("*")} for run in (two, one)]
    assert names[0] == names[1]
    assert read_status(two)["status"] == "finished"
    steps = [[row["step"] for row in rows(run)] for run in (two, one)]
    assert steps[0] == steps[1]


def test_ranks_have_different_random_states(two: Path) -> None:
    kept = torch.load(two / "checkpoints" / "last.ckpt", weights_only=True)["attention_lab"]
    first, second = kept["random"]
    assert not torch.equal(first["torch"], second["torch"])


def test_validation_metrics_cover_the_examples_of_all_ranks(
    two: Path, config: dict[str, Any]
) -> None:
    """Each rank validates a part; the metrics equal those of one process on the whole."""
    found = evaluate(restored(two, "last"), "validation")
    recorded = json.loads((two / "result.json").read_text())["last"]
    assert found.keys() == recorded.keys()
    for name, value in recorded.items():
        assert value == pytest.approx(found[name], abs=1e-6), name


def test_ranks_evaluate_the_same_average(config: dict[str, Any], tmp_path: Path) -> None:
    """Rank 0 has saved its average; the metrics are those of the averages on both ranks."""
    target = "attention_lab.training.weight_averaging.CheckpointAverage"
    callbacks = {"checkpoint_average": {"_target_": target, "num_checkpoints": 3}}
    launch({**config, "callbacks": callbacks}, tmp_path / "run", [])
    found = evaluate(restored(tmp_path / "run", "last"), "validation")
    assert found == pytest.approx(result(tmp_path / "run")["last"], abs=1e-6)


def test_compiled_ranks_train_as_uncompiled_ones(
    config: dict[str, Any], two: Path, tmp_path: Path
) -> None:
    compiled = {**config["trainer"], "compile": {"backend": "aot_eager"}}
    launch({**config, "trainer": compiled}, tmp_path / "run", [])
    assert read_weights(tmp_path / "run").keys() == read_weights(two).keys()
    assert losses(tmp_path / "run") == pytest.approx(losses(two), rel=1e-5)
    compiled_result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert compiled_result["compiled"]


def test_two_ranks_train_compiled_with_changing_lengths(compose: Compose, tmp_path: Path) -> None:
    config = compose(*EXPRESSIONS, *TWO, "data.batch_size=5")
    launch(config, tmp_path / "uncompiled")
    compiled = launch(with_compile(config, {"backend": "eager"}), tmp_path / "compiled")
    assert compiled["compiled"]
    assert losses(tmp_path / "compiled") == losses(tmp_path / "uncompiled")
    weights = [read_weights(tmp_path / name) for name in ("compiled", "uncompiled")]
    assert same_weights(*weights)
