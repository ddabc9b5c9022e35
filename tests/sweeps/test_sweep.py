"""Sweeps: each job is a process of its own that cannot hide, stop or outlive another."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attention_lab.tracking.lock import Lock, is_locked
from attention_lab.tracking.run_directory import read_config
from tests.cli.conftest import TINY, Answer, Command, command  # noqa: F401

#: Settings of a run on images, which load twice as fast as words: 4 batches in an epoch.
DIGITS = (
    *("logger=csv", "trainer=cpu", "trainer.max_steps=4", "model.d_model=16"),
    *("data=digits", "data.batch_size=313"),
)
#: A sweep over faulty mechanisms.
FAULTY = ("--config-dir", "mine", "hydra.sweep.dir=sweep", *DIGITS, "trainer.log_every_n_steps=1")


def statuses(sweep: Path) -> dict[str, dict]:
    """The status.json of each run, by its name without the hash."""
    return {
        path.parent.name.rpartition("-")[0]: json.loads(path.read_text())
        for path in sweep.glob("*/status.json")
    }


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mechanisms that exit, diverge, hang, raise, and read what other jobs left behind."""
    (tmp_path / "faulty.py").write_text(
        "import os, time\n"
        "from attention_lab.attention import DotProduct\n"
        "class Deadly(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        os.kill(os.getpid(), 9)\n"
        "class Endless(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        os.environ['LEAKED'] = 'yes'\n"
        "        return super().forward(query, key) * float('inf')\n"
        "class Strict(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        if 'LEAKED' in os.environ: raise RuntimeError('another job reached this one')\n"
        "        return super().forward(query, key)\n"
        "class Slow(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        if self.training: time.sleep(1000)\n"
        "        return super().forward(query, key)\n"
        "class Broken(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        if os.path.exists('broken'): raise RuntimeError('it is broken')\n"
        "        return super().forward(query, key)\n"
        "class Flaky(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        if not os.path.exists('tried'):\n"
        "            open('tried', 'w').close()\n"
        "            raise RuntimeError('once')\n"
        "        return super().forward(query, key)\n"
    )
    (tmp_path / "broken").touch()
    options = tmp_path / "mine" / "attention"
    options.mkdir(parents=True)
    for name in ("Deadly", "Endless", "Strict", "Slow", "Broken", "Flaky"):
        (options / f"{name.lower()}.yaml").write_text(
            "defaults: [_layer, _self_]\nbackend: eager\n"
            f"score: {{_target_: faulty.{name}, _partial_: true}}\n"
        )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("faulty")
def test_a_failed_job_does_not_stop_the_others_and_is_shown(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    sweep = tmp_path / "sweep"
    answer = command("train", "-m", *FAULTY, "attention=deadly,endless,broken,strict,additive")
    found = statuses(sweep)
    assert {name: status["status"] for name, status in found.items()} == {
        "attention=deadly": "failed",
        "attention=endless": "diverged",
        "attention=broken": "failed",
        "attention=strict": "finished",
        "attention=additive": "finished",
    }
    assert answer.code == 1
    assert "3 runs did not finish" in answer.err
    assert "killed by SIGKILL" in found["attention=deadly"]["error"]
    assert found["attention=broken"]["error"] == "RuntimeError: it is broken"
    for status in found.values():
        assert status["error"] is None or status["error"] in answer.out
    # Each was a process of its own.
    processes = {status["pid"] for status in found.values()}
    assert len(processes) == 5
    assert os.getpid() not in processes
    assert "LEAKED" not in os.environ
    with (sweep / "report.csv").open() as file:
        groups = {
            row["group"]: row["n"] for row in csv.DictReader(file) if row["metric"] == "accuracy"
        }
    assert groups["strict"] == groups["additive"] == "1"
    assert groups["deadly"] == groups["endless"] == groups["broken"] == "0"


@pytest.mark.usefixtures("faulty")
def test_failed_runs_are_run_again_on_request_only(command: Command, tmp_path: Path) -> None:  # noqa: F811
    arguments = ("train", "-m", *FAULTY, "attention=broken,strict")
    assert command(*arguments).code == 1
    first = statuses(tmp_path / "sweep")

    (tmp_path / "broken").unlink()
    again = command(*arguments)
    assert again.code == 1
    assert (
        "1 finished and 1 failed earlier, of 2 runs; run again with sweep.retry=[failed]"
        in again.out
    )
    assert statuses(tmp_path / "sweep") == first

    assert command(*arguments, "sweep.retry=diverged").code == 1
    retried = command(*arguments, "sweep.retry=failed")
    assert retried.code == 0, retried.err
    assert "1 finished earlier, of 2 runs\n" in retried.out
    second = statuses(tmp_path / "sweep")
    assert second["attention=broken"]["status"] == "finished"
    assert second["attention=strict"] == first["attention=strict"]


@pytest.mark.usefixtures("faulty")
def test_a_sweep_stops_at_the_largest_number_of_failures(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    arguments = ("train", "-m", *FAULTY, "attention=strict,broken,additive")
    one = ("hydra.launcher.parallel=1", "sweep.max_failures=1")
    answer = command(*arguments, *one)
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("attention-lab: sweep.max_failures=1: stopped, the last to fail")
    assert "attention=broken" in answer.err
    found = statuses(tmp_path / "sweep")
    assert {name: status["status"] for name, status in found.items()} == {
        "attention=strict": "finished",
        "attention=broken": "failed",
    }
    (tmp_path / "broken").unlink()
    assert command(*arguments, *one, "sweep.retry=failed").code == 0
    assert len(statuses(tmp_path / "sweep")) == 3


@pytest.mark.usefixtures("faulty")
def test_a_job_at_its_time_limit_is_ended_and_a_failed_job_is_retried(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    slow = command("train", "-m", *FAULTY, "attention=slow", "hydra.launcher.time_limit=0.02")
    assert slow.code == 1
    (status,) = statuses(tmp_path / "sweep").values()
    assert status["status"] == "failed"
    assert status["error"] == "took longer than 0.02 minutes (hydra.launcher.time_limit)"

    flaky = command("train", "-m", *FAULTY, "attention=flaky", "hydra.launcher.retries=1")
    assert "[1/1]" in flaky.out  # its first end was none
    assert "finished" in flaky.out


def test_a_killed_sweep_ends_its_jobs_and_resumes(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    arguments = [
        *(
            "train",
            "-m",
            *TINY,
            "hydra.sweep.dir=sweep",
            "attention=none,dot_product",
        ),
        *(
            "trainer.max_steps=60",
            "trainer.max_epochs=99",
            "trainer.check_val_every_n_epoch=2",
            "hydra.launcher.parallel=1",
            "hydra.launcher.threads=1",
        ),
    ]
    line = [sys.executable, "-m", "attention_lab", *arguments]
    sweep = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (started := [s for s in statuses(tmp_path / "sweep").values() if s["progress"]]):
        assert time.monotonic() < deadline, sweep.stderr
        time.sleep(0.05)
    sweep.kill()
    sweep.wait()
    job = started[0]["pid"]
    while _lives(job):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all(s["status"] != "finished" for s in statuses(tmp_path / "sweep").values())

    again = command(*arguments)
    assert again.code == 0, again.err
    found = statuses(tmp_path / "sweep")
    assert {status["status"] for status in found.values()} == {"finished"}
    assert [bool(found[f"attention={name}"]["resumed"]) for name in ("none", "dot_product")] == [
        True,
        False,
    ]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_second_sweep_in_a_directory_is_refused_with_the_lock_owner(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "sweep").mkdir()
    lock = Lock(tmp_path / "sweep")
    lock.write_owner()
    answer = command("train", "-m", *TINY, "hydra.sweep.dir=sweep", "seed=0,1")
    assert is_locked(tmp_path / "sweep")  # the second has left it alone
    lock.release()
    assert answer.code == 2
    assert f"process {os.getpid()} on " in answer.err
    assert "locked by process" in answer.err
    assert statuses(tmp_path / "sweep") == {}


def test_another_config_with_the_same_overrides_is_refused(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    options = tmp_path / "mine" / "trainer"
    options.mkdir(parents=True)
    own = ("--config-dir", "mine", "trainer=t")
    arguments = ("train", "-m", "hydra.sweep.dir=sweep", *DIGITS, *own)
    (options / "t.yaml").write_text("defaults: [cpu, _self_]\nlog_every_n_steps: 3\n")
    assert command(*arguments, "seed=0").code == 0
    (options / "t.yaml").write_text("defaults: [cpu, _self_]\nlog_every_n_steps: 4\n")
    answer = command(*arguments, "seed=0,1")
    assert answer.code == 2
    assert "trainer.log_every_n_steps is 3 there, 4 here" in answer.err
    assert len(statuses(tmp_path / "sweep")) == 1


def test_a_learning_rate_is_chosen_for_each_group_on_validation(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    answer = command(
        *("train", "-m", *DIGITS, "hydra.sweep.dir=sweep"),
        *("attention=none,dot_product", "seed=0,1"),
        *("sweep.tune=lr", "sweep.grid=[1e-9,1e-2]", "trainer.max_steps=20"),
    )
    assert answer.code == 0, answer.err
    tuning = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["tuning"]
    assert tuning["key"] == "optimizer.lr"
    assert tuning["seeds"] == [1000]
    # With the smaller rate nothing is learned at all.
    assert [choice["value"] for choice in tuning["choices"]] == ["0.01", "0.01"]
    tried = [s["overrides"] for s in statuses(tmp_path / "sweep" / "tuning").values()]
    assert len(tried) == 4
    assert all("seed=1000" in overrides for overrides in tried)
    reported = [s["overrides"] for s in statuses(tmp_path / "sweep").values()]
    assert len(reported) == 4
    assert all("optimizer.lr=0.01" in overrides for overrides in reported)


def test_a_sweep_is_compared_by_its_swept_keys(command: Command, tmp_path: Path) -> None:  # noqa: F811
    arguments = ("attention=dot_product,none", "seed=0,1", "hydra.sweep.dir=sweep")
    answer = command("train", "-m", *DIGITS, *arguments)
    assert answer.code == 0, answer.err
    assert "dot_product" in answer.out
    sweep = tmp_path / "sweep"
    assert sorted(statuses(sweep)) == [
        "attention=dot_product,seed=0",
        "attention=dot_product,seed=1",
        "attention=none,seed=0",
        "attention=none,seed=1",
    ]
    for run in sweep.glob("attention=*"):  # what follows from the seed does so in each
        config, asked = read_config(run), json.loads((run / "status.json").read_text())
        assert f"seed={config['seed']}" in asked["overrides"]
        assert config["data"]["seed"] == config["seed"]
    assert (sweep / "report.html").is_file()
    with (sweep / "report.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "accuracy"]
    found = list(sweep.glob("attention=none,seed=*/result.json"))
    by_hand = [json.loads(path.read_text())["test"] for path in found]
    assert len(by_hand) == 2
    (none,) = [row for row in rows if row["group"] == "none"]
    assert float(none["mean"]) == pytest.approx(sum(test["accuracy"] for test in by_hand) / 2)
    # What a job prints is in its log, not on the screen of the sweep.
    log = found[0].with_name("log.txt").read_text()
    assert "step 2/" in log or "step 4/4" in log

    again = command("report", "sweep", "--baseline", "attention=none")
    assert again.code == 0
    assert "dot_product" in again.out
    unknown = command("report", "sweep", "--baseline", "attention=additive")
    assert unknown.code == 2
    assert "dot_product" in unknown.err


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("attention=additive,aditive", "attention=aditive: there is no such option"),
        (
            "attention.num_heads=1,3",
            "attention.num_heads=3: attention: embed_dim=16 is not divisible by",
        ),
        ("seed=0,x", "seed=x: seed: must be a whole number"),
        ("sweep.grid=[1,2]", "sweep.grid: needs sweep.tune"),
        ("hydra.launcher.parallel=two", "hydra.launcher.parallel: input should be a valid integer"),
        ("optimizer.lr=1e-3,abc", "optimizer.lr=abc: optimizer.lr: input should be a valid number"),
    ],
)
def test_one_invalid_job_stops_the_sweep_before_it_starts(
    command: Command,  # noqa: F811
    tmp_path: Path,
    mistake: str,
    says: str,
) -> None:
    answer = command("train", "-m", *TINY, mistake)
    assert answer.code == 2
    assert answer.err.startswith(f"attention-lab: {says}")
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
