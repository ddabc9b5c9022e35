"""Runs that failed before training, for reasons outside their config: a sweep runs them again."""

import json
from pathlib import Path
from typing import NoReturn

import pytest

from attention_lab.sweeps.sweep import Stage, Sweep
from attention_lab.training import run
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose


def planned(tiny_digits: Compose, directory: Path) -> Stage:
    """The plan of a sweep with one job."""
    options = {"retry": [], "tune": None, "grid": None, "seeds": None}
    sweep = Sweep(directory, lambda o: tiny_digits(*o), options, lambda *_: None, lambda _: None)
    (stage,) = sweep.plan([["seed=1"]], ())
    return stage


@pytest.mark.parametrize(
    ("owner", "step", "is_again"),
    [
        (run, "fit", True),  # the trainer, the loggers, a checkpoint on a disk that is gone
        (AttentionTask, "configure_optimizers", True),
        (AttentionTask, "training_step", False),
        (AttentionTask, "validation_step", False),
    ],
)
def test_a_run_that_failed_before_training_is_run_again(
    owner: object,
    step: str,
    is_again: bool,
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError("the network is down")

    (job,) = planned(tiny_digits, tmp_path).jobs
    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(OSError, match="the network is down"):
        run.train(job)
    assert json.loads((job.directory / "status.json").read_text())["status"] == "failed"
    assert bool(planned(tiny_digits, tmp_path).to_run) == is_again


def test_a_run_of_another_version_is_not_changed(tiny_digits: Compose, tmp_path: Path) -> None:
    """Its record says that it failed, but not whether it had started."""
    (job,) = planned(tiny_digits, tmp_path).jobs
    job.directory.mkdir()
    record = {"schema_version": 99, "status": "failed", "progress": None}
    (job.directory / "status.json").write_text(json.dumps(record))
    assert not planned(tiny_digits, tmp_path).to_run
