"""The real W&B client against a real server on this machine."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from attention_lab.cli import dashboard, evaluate, predict, view
from attention_lab.tracking.hyperparameters import hyperparameters
from attention_lab.tracking.record_files import read_record
from attention_lab.tracking.run_directory import read_config
from attention_lab.tracking.wandb_summary import summary
from attention_lab.training.history import History
from tests.cli.conftest import fresh
from tests.conftest import Compose
from tests.runs import train
from tests.tracking.openwandb import Server
from tests.training.conftest import read_metrics

SWEEP = (
    *("attention=scaled_dot_product,additive,multi_head", "data=digits", "trainer=cpu"),
    *("model=self_attention_classifier", "trainer.max_steps=2", "trainer.log_every_n_steps=1"),
    *("hydra.sweep.dir=outputs/mechanisms", "logger.wandb.tags=[try]"),
    "logger.wandb.log_model=true",
)


def test_a_sweep_arrives_as_its_runs(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = fresh("-m", "attention_lab", "train", "-m", *SWEEP, cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert "W&B: " not in answer.err
    stored = server.runs()
    directories = [path.parent for path in tmp_path.glob("outputs/mechanisms/*/status.json")]
    assert len(directories) == 3
    for directory in directories:
        identifier = json.loads((directory / "status.json").read_text())["wandb_id"]
        run, config = stored[identifier], read_config(directory)
        mechanism = config["choices"]["attention"]
        assert (run["display_name"], run["state"]) == (mechanism, "finished")
        assert json.loads(run["tags_json"]) == ["try"]
        given = server.config(identifier)
        assert given["attention"] == mechanism
        assert {key: it for key, it in given.items() if key != "_wandb"} == hyperparameters(config)
        _check_curves(server, identifier, directory)
        result = read_record(directory / "result.json")
        scalars = {k: it for k, it in summary(result).items() if isinstance(it, str | float | int)}
        arrived = json.loads(run["summary_json"])
        assert {key: arrived.get(key) for key in scalars} == pytest.approx(scalars)
        assert not [key for key in arrived if key.startswith("validation/")]
        _check_artifacts(server, identifier, result)
    _check_dashboard(server, tmp_path / "outputs/mechanisms", capsys)


def _check_artifacts(server: Server, identifier: str, result: dict[str, Any]) -> None:
    """The server has the names, types and metadata of a run's artifacts.

    It says of each new artifact that it has its files already, so the client sends none. Their
    content is tested from the client's offline files, in ``test_run_artifacts.py``.
    """
    found = {row["name"]: row for row in server.rows("artifacts") if row["run_id"] == identifier}
    types = {name: row["artifact_type"] for name, row in found.items()}
    assert types == {f"model-{identifier}": "model", f"attention-{identifier}": "attention"}
    monitor = result["monitor"]
    assert json.loads(found[f"model-{identifier}"]["metadata_json"]) == {
        "mechanism": server.config(identifier)["attention"],
        "step": result["best_step"],
        "monitor": f"validation/{monitor}",
        "score": pytest.approx(result["validation"][monitor]),
    }


def _check_dashboard(server: Server, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that refuses workspaces leaves their specification, and one line.

    This server refuses all requests of W&B's public API, whose operations have no name. The
    specification is tested in ``tests/reports/test_wandb_dashboard.py``.
    """
    if find_spec("wandb_workspaces") is None:
        return  # it is an extra
    assert dashboard.run([str(sweep)]) == 0
    file = sweep / "dashboard.json"
    assert capsys.readouterr().out.startswith(
        f'Unknown operation named "": wrote the specification to {file}; to create it, '
    )
    assert json.loads(file.read_text()).keys() == {"workspace", "report"}


@pytest.mark.usefixtures("own_cache")
def test_an_artifact_that_the_server_refuses_is_one_line(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """This server has no artifacts in its public API; tests/cli/test_artifact_argument.py has."""
    reference = "me/words/model-1a2b3c4d:best"
    for command, *arguments in ((evaluate,), (predict,), (view, "zoo")):
        assert command.run([f"wandb:{reference}", *arguments]) == 1
        assert capsys.readouterr().err == (
            f'attention-lab: {reference}: {server.url}: Unknown operation named ""\n'
        )


def test_nothing_is_lost_if_the_server_goes_down(
    server: Server,
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It stops at the first validation, and starts again after the run."""
    start = History.on_validation_start

    def on_validation_start(*arguments: Any) -> None:
        start(*arguments)
        server.stop()

    monkeypatch.setattr(History, "on_validation_start", on_validation_start)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    train(tiny_digits("logger=wandb"), tmp_path / "run", [])
    server.start()
    assert "Upload later: attention-lab sync " in capsys.readouterr().err
    identifier = json.loads((tmp_path / "run" / "status.json").read_text())["wandb_id"]
    assert server.runs()[identifier]["state"] == "running"
    answer = fresh("-m", "attention_lab", "sync", "run", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert f" of 1 run to {server.url}" in answer.out
    assert server.runs()[identifier]["state"] == "finished"
    _check_curves(server, identifier, tmp_path / "run")


def _check_curves(server: Server, identifier: str, directory: Path) -> None:
    """The server has the values of ``metrics.csv``."""
    for name in ("train/loss", "validation/loss", "cost/training_seconds", "test/accuracy"):
        expected = dict(read_metrics(directory, name))
        assert expected
        assert server.curve(identifier, name) == pytest.approx(expected), name
