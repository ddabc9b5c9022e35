"""Sweeps of runs with several processes each."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli.conftest import Answer, Command, command, fresh  # noqa: F401

DIGITS = ("data=digits", "logger=csv", "model.d_model=16", "trainer.max_steps=3")


def of_each(sweep: Path, file: str) -> dict[str, Any]:
    """The status.json of each run, by its name without the hash."""
    read = json.loads if file.endswith("json") else yaml.safe_load
    return {
        path.parent.name.rpartition("-")[0]: read(path.read_text())
        for path in sorted(sweep.glob(f"*/{file}"))
    }


def sweep(directory: Path, *overrides: str) -> Answer:
    """Runs a sweep as on a machine with two cores."""
    script = directory / "sweep.py"
    script.write_text(
        "import sys\n"
        "from attention_lab.training.distributed import launch, workers\n"
        "workers.cores = launch.cores = lambda: 2\n"
        "from attention_lab.cli import main\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main(['train', '-m', 'hydra.sweep.dir=sweep', *sys.argv[1:]]))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(directory))  # where own scores are
        return fresh(str(script), *DIGITS, *overrides, cwd=directory)


def own_score(directory: Path, name: str, act: str) -> None:
    """Makes a mechanism that acts before it computes its scores."""
    (directory / f"own_{name}.py").write_text(
        "import os, signal, time\n"
        "from attention_lab.attention import DotProduct\n"
        "class Own(DotProduct):\n"
        "    def forward(self, query, key):\n"
        f"        {act}\n"
        "        return super().forward(query, key)\n"
    )
    (directory / "mine" / "attention").mkdir(parents=True)
    (directory / "mine" / "attention" / f"{name}.yaml").write_text(
        f"defaults: [scaled_dot_product, _self_]\nscore: {{_target_: own_{name}.Own}}\n"
    )


def test_a_grid_of_runs_of_one_and_of_two_processes_is_one_sweep(tmp_path: Path) -> None:
    """Each run has as many processes as requested: no variable of one run reaches the next."""
    done = sweep(tmp_path, "trainer=ddp_cpu", "seed=0,1", "trainer.devices=2,1")
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"sweep", "sweep.py"}
    statuses = of_each(tmp_path / "sweep", "status.json")
    names = {f"seed={seed},trainer.devices={devices}" for seed in (0, 1) for devices in (1, 2)}
    assert statuses.keys() == names
    assert {status["status"] for status in statuses.values()} == {"finished"}
    in_order = sorted(statuses, key=lambda name: str(statuses[name]["started"]))
    assert [name[-1] for name in in_order] == ["2", "1", "2", "1"]
    configs = list((tmp_path / "sweep").glob("*/config.yaml"))
    assert len(configs) == 4
    for config in configs:
        devices = yaml.safe_load(config.read_text())["trainer"]["devices"]
        kept = torch.load(config.parent / "checkpoints" / "last.ckpt", weights_only=True)
        assert len(kept["attention_lab"]["random"]) == devices


def test_all_ranks_of_a_trial_have_the_same_settings(tmp_path: Path) -> None:
    pytest.importorskip("optuna", "4.5")
    done = sweep(
        *(tmp_path, "trainer=ddp_cpu", "hydra/sweeper=search", "hydra.sweeper.n_trials=2"),
        "optimizer.lr=interval(1e-4,1e-2)",
    )
    assert done.code == 0, done.err
    runs = of_each(tmp_path / "sweep", "config.yaml")
    results = of_each(tmp_path / "sweep", "result.json")
    assert len(runs) == len(results) == 2
    assert len({run["optimizer"]["lr"] for run in runs.values()}) == 2


def test_a_killed_rank_fails_its_run_and_no_other(tmp_path: Path) -> None:
    own_score(
        *(tmp_path, "deadly"),
        "if os.environ.get('RANK') == '1': os.kill(os.getpid(), signal.SIGKILL)",
    )
    done = sweep(
        *(tmp_path, "--config-dir", "mine", "trainer=ddp_cpu"),
        "attention=scaled_dot_product,deadly",
    )
    assert done.code == 1
    found = of_each(tmp_path / "sweep", "status.json")
    assert found["attention=scaled_dot_product"]["status"] == "finished"
    dead = found["attention=deadly"]
    assert dead["status"] == "failed"
    assert dead["error"].startswith("process 1 of 2: killed by SIGKILL")


def test_a_run_at_its_time_limit_ends_with_all_its_processes(tmp_path: Path) -> None:
    own_score(tmp_path, "slow", "time.sleep(1000)")
    done = sweep(
        *(tmp_path, "--config-dir", "mine", "trainer=ddp_cpu", "attention=slow"),
        "hydra.launcher.time_limit=0.3",
    )
    assert done.code == 1
    (status,) = of_each(tmp_path / "sweep", "status.json").values()
    assert status["status"] == "failed"
    assert "took longer than 0.3 minutes" in status["error"]


def test_a_sweep_that_torchrun_starts_is_refused(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    answer = command("train", "-m", *DIGITS, "trainer=ddp_cpu", "seed=0,1")
    assert answer.code == 2
    assert "-m: needs one process, but 2 were started by torchrun" in answer.err
    assert not list(tmp_path.iterdir())


def test_too_many_devices_are_refused_before_anything_runs(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("attention_lab.training.distributed.launch.cores", lambda: 2)
    answer = command(
        *("train", "-m", *DIGITS, "trainer=ddp_cpu", "trainer.devices=2,3"),
        "hydra.sweep.dir=sweep",
    )
    assert answer.code == 2
    assert "trainer.devices=3: only 2 CPU cores available" in answer.err
    assert not list(tmp_path.glob("sweep/*/status.json"))
