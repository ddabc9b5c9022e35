"""The real W&B client against a real server on this machine: the open-source openwandb."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from attention_lab.tracking.hyperparameters import hyperparameters
from attention_lab.tracking.record_files import read_record
from attention_lab.tracking.run_directory import read_config
from attention_lab.tracking.wandb_summary import summary
from attention_lab.training.history import History
from tests.cli.conftest import fresh
from tests.conftest import Compose
from tests.runs import train
from tests.tracking.wandb_files import forget_login
from tests.training.conftest import read_metrics

SWEEP = (
    *("attention=scaled_dot_product,additive,multi_head", "data=digits", "trainer=cpu"),
    *("model=self_attention_classifier", "trainer.max_steps=2", "trainer.log_every_n_steps=1"),
    *("hydra.sweep.dir=outputs/mechanisms", "logger.wandb.tags=[try]"),
)


class Server:
    """A server that can be stopped and started again; it keeps what it has stored.

    Args:
        packages: the directory with openwandb and the packages that it needs.
        data: the directory where it stores data.
    """

    def __init__(self, packages: Path, data: Path) -> None:
        self.packages, self.data = packages, data
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        # Without site packages, only its own packages are imported.
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.data)]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", "openwandb", "serve", *options],
            env={**os.environ, "PYTHONPATH": str(self.packages)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline
                assert self.process.poll() is None
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def runs(self) -> dict[str, dict[str, Any]]:
        """What it has stored of each run, by id."""
        names = ("display_name", "state", "tags_json", "config_json", "summary_json")
        (file,) = self.data.glob("**/*.db")
        with sqlite3.connect(file) as database:
            found = database.execute(f"SELECT run_id, {', '.join(names)} FROM runs").fetchall()
        return {identifier: dict(zip(names, row, strict=True)) for identifier, *row in found}

    def curve(self, identifier: str, name: str) -> dict[int, float]:
        """The values of a metric by step, without those that the client sent again."""
        (file,) = self.data.glob(f"**/{identifier}/wandb-history.jsonl")
        rows = map(json.loads, filter(None, file.read_text().splitlines()))
        return {row["trainer/global_step"]: row[name] for row in rows if name in row}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server; the user of this process is logged in to it."""
    directory = tmp_path_factory.mktemp("server")
    packages, data = directory / "packages", directory / "data"
    pip = ["-m", "pip", "install", "--quiet", "--retries=0", "--timeout=10", "--only-binary=:all:"]
    installed = fresh(*pip, "--target", str(packages), "openwandb", cwd=directory)
    if installed.code:
        pytest.skip(f"openwandb cannot be installed: {installed.err.strip().splitlines()[-1]}")
    server = Server(packages, data)
    with pytest.MonkeyPatch.context() as patch:
        forget_login(patch, directory)
        patch.setenv("WANDB_BASE_URL", server.url)
        patch.setenv("WANDB_API_KEY", "0" * 40)
        wandb.teardown()  # which has read the variables already
        server.start()
        yield server
        server.stop()
        wandb.teardown()


def test_a_sweep_arrives_as_its_runs(server: Server, tmp_path: Path) -> None:
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
        given = {key: it["value"] for key, it in json.loads(run["config_json"]).items()}
        assert given["attention"] == mechanism
        assert {key: it for key, it in given.items() if key != "_wandb"} == hyperparameters(config)
        _check_curves(server, identifier, directory)
        result = read_record(directory / "result.json")
        scalars = {k: it for k, it in summary(result).items() if isinstance(it, str | float | int)}
        arrived = json.loads(run["summary_json"])
        assert {key: arrived.get(key) for key in scalars} == pytest.approx(scalars)
        assert not [key for key in arrived if key.startswith("validation/")]


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
