"""What the W&B run of a training run contains: config, curves, summary, media."""

import csv
import html
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from attention_lab.tracking.hyperparameters import hyperparameters
from attention_lab.tracking.wandb_history import records
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import train
from tests.tracking.wandb_files import content, forget_login, stored, when_written


@pytest.fixture(scope="module")
def sweep(tiny_digits: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that finish and one that crashes, in one process and without a W&B login."""
    sweep = tmp_path_factory.mktemp("outputs") / "my-sweep"

    def crash(*_: object) -> NoReturn:
        raise RuntimeError("crashed")

    with pytest.MonkeyPatch.context() as patch:
        forget_login(patch, sweep.parent)
        for seed in (1, 2):
            overrides = ["logger=wandb", f"seed={seed}"]
            train(tiny_digits(*overrides), sweep / f"seed={seed}", overrides)
        patch.setattr(AttentionTask, "validation_step", crash)
        with pytest.raises(RuntimeError, match="crashed"):
            train(tiny_digits("logger=wandb"), sweep / "crashed", [])
        assert "WANDB_MODE" not in os.environ
    return sweep


def test_a_wandb_run_has_name_group_and_config(sweep: Path, tiny_digits: Compose) -> None:
    run = stored(sweep / "seed=1")
    assert (run.run.project, run.run.entity) == ("attention-lab", "")
    assert (run.run.display_name, run.run.run_group) == ("seed 1", "my-sweep")
    assert run.run.job_type == "train"
    config = {key: value for key, value in run.config.items() if key != "_wandb"}
    assert config == hyperparameters(tiny_digits("logger=wandb", "seed=1"))
    assert not any(isinstance(value, dict) or "." in key for key, value in config.items())


def test_curves_are_those_of_metrics_csv(sweep: Path) -> None:
    run, result = stored(sweep / "seed=1"), json.loads((sweep / "seed=1/result.json").read_text())
    lines = (sweep / "seed=1" / "metrics.csv").read_text().splitlines()
    columns, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    scalars = [name for name in columns if name.startswith("attention/") or name.count("/") < 2]
    for name in set(scalars) - {"step", "epoch"}:
        column = columns.index(name)
        written = [float(row[column]) for row in rows if row[column]]
        assert [value for _, value in run.curve(name)] == pytest.approx(written), name
    assert [step for step, _ in run.curve("train/loss")] == list(range(8))
    assert len(run.curve("validation/accuracy")) == 2
    ((_, accuracy),) = run.curve("test/accuracy")
    assert accuracy == pytest.approx(result["test"]["accuracy"])


def test_slices_are_in_one_table_for_each_split(sweep: Path) -> None:
    """W&B makes a panel for each metric."""
    run, result = stored(sweep / "seed=1"), json.loads((sweep / "seed=1/result.json").read_text())
    for split, number in (("validation", 2), ("test", 1)):
        tables = run.curve(f"{split}/slices")
        assert len(tables) == number
        header, *rows = table(sweep / "seed=1", tables[-1][1])
        assert header == ["metric", "slice", "value"]
        last = result["last" if split == "validation" else "test"]
        slices = {name: value for name, value in last.items() if "/" in name}
        found = {f"{metric}/{part}": float(value) for metric, part, value in rows}
        assert found == pytest.approx(slices)
    names = {name for row in run.history for name in row if not name.startswith("attention/")}
    assert not [name for name in names if name.count("/") > 1]


def test_the_summary_has_the_results_with_flat_keys(sweep: Path) -> None:
    run, result = stored(sweep / "seed=1"), json.loads((sweep / "seed=1/result.json").read_text())
    summary = run.summary
    for name, value in result["validation"].items():
        assert summary[f"best/{name}"] == pytest.approx(value)
    for name, value in result["test"].items():
        assert summary[f"test/{name}"] == pytest.approx(value)
    assert summary["trivial_baseline/accuracy"] == result["trivial_baseline"]["accuracy"]
    for name in ("parameters", "steps", "best_step", "monitor", "area_under_curve"):
        assert summary[name] == result[name]
    assert summary["cost/tokens_per_second"] == result["tokens_per_second"]
    assert summary["cost/seconds/training"] == result["seconds"]["training"]


def test_the_summary_has_the_best_validation_while_a_run_trains(sweep: Path) -> None:
    (file,) = (sweep / "seed=1").glob("wandb/offline-run-*/*.wandb")
    kinds = [
        "best" if any(item.key == "best_step" for item in record.summary.update) else "test"
        for record in records(file)
        if any(item.key == "best_step" for item in record.summary.update)
        or any(item.nested_key[:] == ["test/accuracy"] for item in record.history.item)
    ]
    assert kinds == ["best", "best", "test", "best"]


def test_the_summary_has_no_last_value_of_a_reported_metric(sweep: Path) -> None:
    """It could be taken for the best."""
    summary = stored(sweep / "seed=1").summary
    kept = {name for name in summary if name.startswith("validation/")}
    assert "validation/slices" in kept
    assert kept <= {"validation/slices", "validation/predictions"}
    assert "cost/training_seconds" not in summary


def test_attention_maps_are_images_at_every_validation(sweep: Path) -> None:
    run = stored(sweep / "seed=1")
    (files,) = (sweep / "seed=1").glob("wandb/offline-run-*/files")
    logged: dict[int, set[bytes]] = {4: set(), 8: set()}
    for number in (1, 2, 3):
        images = run.curve(f"attention/self_attention/{number}")
        assert [step for step, _ in images] == [4, 8]
        for step, image in images:
            assert image["_type"] == "image-file"
            assert image["caption"] == f"example {number}, step {step}"
            logged[step].add((files / image["path"]).read_bytes())
    for step, images in logged.items():
        ours = (sweep / "seed=1" / "attention" / f"step-{step:06d}").glob("*.png")
        assert images == {path.read_bytes() for path in ours}
        assert len(images) == 3


def table(directory: Path, logged: Mapping[str, str]) -> list[list[str]]:
    """The rows of a logged table, and its header."""
    assert logged["_type"] == "html-file"
    (file,) = directory.glob(f"wandb/offline-run-*/files/{logged['path']}")
    rows = re.findall(r"<tr>(.*?)</tr>", file.read_text(encoding="utf-8"), re.DOTALL)
    cells = (re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [list(map(html.unescape, row)) for row in cells]


def test_predictions_are_a_table_at_every_validation(sweep: Path) -> None:
    run = stored(sweep / "seed=1")
    with (sweep / "seed=1" / "predictions.csv").open(newline="") as file:
        there = list(csv.DictReader(file))
    tables = run.curve("validation/predictions")
    assert [step for step, _ in tables] == [4, 8]
    for step, logged in tables:
        header, *rows = table(sweep / "seed=1", logged)
        assert header == ["example", "input", "reference", "prediction", "correct"]
        assert rows == [list(row.values())[1:] for row in there if row["step"] == str(step)]


def test_the_viewer_is_logged_at_the_end_of_training(sweep: Path) -> None:
    run = stored(sweep / "seed=1")
    (files,) = (sweep / "seed=1").glob("wandb/offline-run-*/files")
    ((step, page),) = run.curve("attention/viewer")
    assert (step, page["_type"]) == (8, "html-file")
    assert (files / page["path"]).read_bytes() == (
        sweep / "seed=1" / "attention" / "attention.html"
    ).read_bytes()


def test_two_runs_of_one_process_are_two_wandb_runs(sweep: Path) -> None:
    first, second = stored(sweep / "seed=1"), stored(sweep / "seed=2")
    assert first.run.run_id != second.run.run_id
    assert (first.config["seed"], second.config["seed"]) == (1, 2)
    assert first.curve("train/loss") != second.curve("train/loss")
    assert len(first.curve("train/loss")) == len(second.curve("train/loss")) == 8


def test_the_exit_code_of_a_wandb_run_is_that_of_the_run(sweep: Path) -> None:
    assert stored(sweep / "seed=1").exit_code == 0
    assert stored(sweep / "crashed").exit_code == 1
    assert len(stored(sweep / "crashed").curve("train/loss")) == 4


def test_no_wandb_files_without_wandb(digits_run: Any) -> None:
    assert not (digits_run.directory / "wandb").exists()


def test_a_run_that_resumes_is_the_same_wandb_run(
    sweep: Path, tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, each process has its own directory, named by the second."""
    forget_login(monkeypatch, sweep.parent)
    directory = sweep / "crashed"
    before = stored(directory)
    time.sleep(1)
    train(tiny_digits("logger=wandb"), directory, [])
    first, second = sorted(directory.glob("wandb/offline-run-*/*.wandb"))
    assert first.name == second.name == f"run-{before.run.run_id}.wandb"
    assert json.loads((directory / "status.json").read_text())["wandb_id"] == before.run.run_id
    parts = [before, when_written(second, content)]
    found = {record.run.run_id for record in records(second) if record.HasField("run")}
    assert found == {before.run.run_id}
    names = {name for part in parts for row in part.history for name in row if "/" in name}
    for name in names - {"trainer/global_step"}:
        steps = [step for part in parts for step, _ in part.curve(name)]
        assert steps == sorted(set(steps)), name
    losses = [point for part in parts for point in part.curve("train/loss")]
    whole = stored(sweep / "seed=1").curve("train/loss")
    assert [step for step, _ in losses] == [step for step, _ in whole]
    assert len(parts[0].curve("train/loss")) == 4
