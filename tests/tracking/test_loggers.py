"""Loggers that a config chooses: which are refused, what they receive, and that they end no run."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from attention_lab.config.components import ConfigError
from attention_lab.tracking import loggers
from attention_lab.tracking.loggers import OtherLogger, check_loggers
from attention_lab.tracking.record_files import read_record
from attention_lab.tracking.run_config import resolve
from tests.conftest import Compose
from tests.runs import train
from tests.training.conftest import read_metrics

LIGHTNING = "lightning.pytorch.loggers"


class Failing(DummyLogger):
    """A user's logger that fails after its start."""

    def log_metrics(self, *_: Any, **__: Any) -> None:
        raise OSError("the service is down\nfor hours")


class NotStarting(Logger):
    """A user's logger that cannot start."""

    name = version = ""

    def __init__(self) -> None:
        raise RuntimeError("no account")

    def log_metrics(self, *_: Any, **__: Any) -> None: ...

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


class Fixed(DummyLogger):
    """A user's logger that takes no other hyperparameters for a resumed run, as MLflow's."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        raise ValueError("changing parameters is not allowed")


def own(name: str) -> dict[str, str]:
    """The node of a class of this file."""
    return {"_target_": f"{__name__}.{name}"}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"x": {"_target_": "torch.nn.Linear"}}, "torch.nn.Linear is not a Logger or WandbOptions"),
        ({"x": {"_target_": f"{LIGHTNING}.CSVLogger"}}, "cannot be used; every run writes metrics"),
        ({"x": {"_target_": f"{LIGHTNING}.WandbLogger"}}, "cannot be used; use logger=wandb"),
        ({"one": own("Failing"), "two": own("Failing")}, "logger.one and logger.two log to the sa"),
        ({"x": own("Failing") | {"ky": 1}}, "logger.x.ky: Failing has no such key"),
        ({"x": 3}, "logger.x: must be a mapping with a _target_"),
    ],
)
def test_a_logger_that_cannot_be_used_is_refused(
    nodes: dict[str, Any], message: str, compose: Compose
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_loggers(resolve(compose() | {"logger": nodes}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_loggers_of_wandb_are_refused(compose: Compose) -> None:
    node = compose("logger=wandb")["logger"]["wandb"]
    nodes = {"wandb": node, "again": {**node, "project": "another"}}
    with pytest.raises(ConfigError, match=r"logger\.wandb and logger\.again log to the same place"):
        check_loggers(resolve(compose() | {"logger": nodes}))


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "comet"])
def test_a_missing_package_is_named_with_its_extra(
    name: str, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"pip install 'attention-lab\[{name}\]'"):
        check_loggers(resolve(compose(f"logger={name}")))


def test_loggers_that_fail_end_no_run(
    tiny_digits: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = {"one": own("Failing"), "two": own("NotStarting")}
    train(tiny_digits("trainer.max_steps=1") | {"logger": nodes}, tmp_path / "run", [])
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("attention-lab: ")]
    assert "attention-lab: logger.two: no account; nothing more is logged." in lines
    assert "attention-lab: logger.one: the service is down; nothing more is logged." in lines
    assert read_metrics(tmp_path / "run", "validation/loss")


def test_hyperparameters_are_logged_once(
    tiny_digits: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resolve(tiny_digits() | {"logger": {"one": own("Fixed")}})
    assert OtherLogger("one", config, tmp_path, "an-id").logger is not None
    assert not capsys.readouterr().err
    assert OtherLogger("one", config, tmp_path, None).logger is None


def test_what_a_choice_of_loggers_switches_off_is_said(
    tiny_digits: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_step = tiny_digits("trainer.max_steps=1")
    nothing = "there is nothing for `attention-lab sync` to upload"
    train(one_step, tmp_path / "csv", [])
    assert capsys.readouterr().out.splitlines()[0] == (
        f"metrics go to metrics.csv; attention maps stay in the run's directory; {nothing}"
    )
    nodes = {"mine": {"_target_": f"{DummyLogger.__module__}.DummyLogger"}}
    train(one_step | {"logger": nodes}, tmp_path / "mine", [])
    assert capsys.readouterr().out.splitlines()[0] == (
        f"metrics go to metrics.csv, mine; mine cannot log attention maps; {nothing}"
    )


def test_tensorboard_has_the_metrics_and_attention_maps_of_a_run(
    tiny_digits: Compose, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    events = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    train(tiny_digits("logger=tensorboard"), tmp_path / "run", [])
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    logged = [event.value for event in found.Scalars("validation/accuracy")]
    there = [value for _, value in read_metrics(tmp_path / "run", "validation/accuracy")]
    assert logged == pytest.approx(there)
    (tested,) = found.Scalars("test/accuracy")
    assert tested.step == read_record(tmp_path / "run" / "result.json")["steps"]
    assert [name for name in found.Tags()["images"] if name.startswith("attention/")]


def test_mlflow_has_one_run_for_an_interrupted_run(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="it is too large for the locked environment")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, directory = tiny_digits("logger=mlflow"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("attention_lab.training.run.evaluate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, directory, [])
    train(config, directory, [])
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("attention-lab")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_id == read_record(directory / "status.json")["logger_ids"]["mlflow"]
    assert run.data.metrics["test/accuracy"] == read_metrics(directory, "test/accuracy")[0][1]
    assert client.list_artifacts(run.info.run_id, "attention")
