"""The best checkpoint of a run as a W&B artifact, from the client's offline files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from attention_lab.tracking.artifact_download import artifact_reference
from attention_lab.tracking.record_files import read_record
from attention_lab.tracking.wandb_history import records
from attention_lab.tracking.wandb_logger import WandbOptions
from tests.conftest import Compose
from tests.runs import train
from tests.tracking.wandb_files import forget_login, when_written

EPOCHS = 5


def logged(directory: Path) -> list[Any]:
    """The artifacts that a run has logged, in order."""
    when_written(directory)
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    return [record.artifact for record in records(file) if record.HasField("artifact")]


@pytest.fixture
def trained(tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a run with a value of log_model; returns its directory."""
    forget_login(monkeypatch, tmp_path)

    def run(log_model: str) -> Path:
        options = [f"trainer.max_epochs={EPOCHS}", "optimizer.lr=0.2", "seed=2"]
        config = tiny_digits("logger=wandb", f"logger.wandb.log_model={log_model}", *options)
        train(config, tmp_path / "run")
        return tmp_path / "run"

    return run


def test_the_best_checkpoint_is_logged_at_the_end(trained: Any) -> None:
    directory = trained("true")
    artifact, viewer = logged(directory)
    assert (artifact.type, viewer.type) == ("model", "attention")
    run_id = read_record(directory / "status.json")["wandb_id"]
    assert artifact.name == f"model-{run_id}"
    assert set(artifact.aliases) == {"best", "latest"}
    result = read_record(directory / "result.json")
    assert json.loads(artifact.metadata) == {
        "mechanism": "ScoredAttention",
        "monitor": "validation/accuracy",
        "score": result["validation"]["accuracy"],
        "step": result["best_step"],
    }
    contents = {each.path: each.local_path for each in artifact.manifest.contents}
    names = ("config.yaml", "checkpoints/best.ckpt")
    assert contents == {name: str(directory / name) for name in names}  # and no copies
    (page,) = viewer.manifest.contents
    assert (viewer.name, page.path) == (f"attention-{run_id}", "attention.html")
    reference = f"me/digits/{artifact.name}:best"
    assert artifact_reference(reference) == reference


def test_each_new_best_checkpoint_is_logged_during_training(trained: Any, tmp_path: Path) -> None:
    directory = trained("all")
    *during, last = (each for each in logged(directory) if each.type == "model")
    steps = [json.loads(artifact.metadata)["step"] for artifact in during]
    scores = [json.loads(artifact.metadata)["score"] for artifact in during]
    assert 1 < len(steps) < EPOCHS  # not every validation is the best
    assert steps == sorted(set(steps))
    assert scores == sorted(set(scores))
    assert last.digest == during[-1].digest  # W&B makes no new version of it
    assert len({artifact.digest for artifact in during}) == len(during)
    for artifact in during:
        for each in artifact.manifest.contents:  # copies, as the file is replaced later
            assert Path(each.local_path).is_relative_to(directory / "wandb")
            assert Path(each.local_path).exists()
    assert "WANDB_DATA_DIR" not in os.environ
    assert not (tmp_path / ".local").exists()


@pytest.mark.parametrize(("state", "error"), [("pruned", ""), ("finished", "is not valid JSON")])
def test_a_run_is_finished_if_an_artifact_cannot_be_logged(
    state: str,
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forget_login(monkeypatch, tmp_path)
    named = {"name": "seed 1", "group": "sweep", "job_type": "search"}
    logger = WandbOptions(log_model=True).logger(tmp_path, {}, **named)
    assert logger is not None
    if state == "finished":
        (tmp_path / "result.json").write_text("{")
    logger.close(exit_code=0)
    assert when_written(tmp_path).exit_code == 0
    said = capsys.readouterr().err
    assert (error in said) if error else not said


def test_no_artifact_is_logged_unless_asked_for(trained: Any, tmp_path: Path) -> None:
    """Not even a table: W&B asks the server first, and training would wait for it."""
    directory = trained("false")
    assert logged(directory) == []
    assert "WANDB_DATA_DIR" not in os.environ
    assert not (tmp_path / ".local").exists()
