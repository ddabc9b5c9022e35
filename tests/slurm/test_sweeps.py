"""Sweeps as jobs of a real SLURM."""

import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.slurm.cluster import Cluster, eventually
from tests.slurm.conftest import SWEEP, Start, ended, job_of, records


def test_a_sweep_is_an_array_in_which_a_failed_job_stops_no_other(
    login: Command, tmp_path: Path
) -> None:
    arguments = (*SWEEP, "hydra.launcher.at_once=2", "attention=dot_product,broken,deadly,additive")
    answer = login("train", *arguments)
    assert answer.code == 1, answer.err
    assert "2 runs did not finish" in answer.err
    found = records(tmp_path / "sweep")
    assert {name: record["status"] for name, record in found.items()} == {
        "attention=dot_product": "finished",
        "attention=broken": "failed",
        "attention=deadly": "failed",
        "attention=additive": "finished",
    }
    assert found["attention=broken"]["error"] == "RuntimeError: it is broken"
    jobs = [job_of(tmp_path / "sweep", name) for name in found]
    array = jobs[0].partition("_")[0]
    assert sorted(jobs) == [f"{array}_{i}" for i in range(4)]
    # A killed process reports nothing; this error is SLURM's.
    deadly = found["attention=deadly"]["error"]
    assert deadly.startswith(
        f"SLURM job {job_of(tmp_path / 'sweep', 'attention=deadly')}: failed: "
    )
    assert "Killed" in deadly
    for record in found.values():
        assert record["error"] is None or record["error"] in answer.out
    began = sorted(record["started"] for record in found.values())
    over = sorted(record["finished"] for record in found.values())
    assert over[0] < began[2]  # not more than two at a time
    assert over[1] < began[3]
    log = next((tmp_path / "sweep").glob("attention=broken-*/log.txt")).read_text()
    assert "RuntimeError: it is broken" in log

    again = login("train", *arguments)
    assert "2 finished and 2 failed earlier, of 4 runs" in again.out
    assert "submitted" not in again.out
    assert records(tmp_path / "sweep") == found


def test_ctrl_c_in_a_tuning_prints_which_jobs_continue(
    start: Start, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    tuning = ("attention=slow", "sweep.tune=lr", "sweep.grid=[0.1,0.01]")
    going = start("train", *SWEEP, *tuning, PAUSE="5")
    eventually(lambda: len(cluster.queue()) == 2, "the tuning to be submitted")
    eventually(lambda: len(list(tmp_path.glob("sweep/tuning/*/slurm.json"))) == 2, "its records")
    going.send_signal(signal.SIGINT)
    answer = ended(going)
    assert "2 jobs in the SLURM queue; they do not need this shell" in answer.out
    assert f"scancel {next(iter(cluster.queue())).partition('_')[0]}\n" in answer.out


def test_jobs_outlive_the_shell_are_submitted_once_and_can_be_cancelled(
    login: Command,
    start: Start,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAUSE", "1")
    slow = ("attention=slow", "data.examples=800")
    arguments = (*SWEEP, *slow, "seed=0,1", "hydra.launcher.at_once=1")
    (tmp_path / "slow").touch()
    left = login("train", *arguments, "hydra.launcher.wait=false")
    assert left.code == 0, left.err
    assert "2 jobs submitted to SLURM" in left.out
    sweep = tmp_path / "sweep"
    jobs = [job_of(sweep, f"seed={seed}") for seed in (0, 1)]
    array = jobs[0].partition("_")[0]
    assert f"scancel {array}\n" in left.out
    assert "attention-lab report sweep --watch" in left.out
    assert cluster.queue().keys() == set(jobs)

    again = start("train", *arguments)
    eventually(lambda: "seed=0" in records(sweep), "the first job to begin")
    assert again.stdout is not None
    line = next(line for line in again.stdout if "submitted" in line)
    assert line == "0 jobs submitted to SLURM; 2 are already in the queue or running\n"
    again.send_signal(signal.SIGINT)
    interrupted = ended(again)
    assert interrupted.code == 1
    assert f"scancel {array}\n" in interrupted.out
    assert "the jobs continue, and the same command follows them" in interrupted.err
    assert cluster.queue().keys() == set(jobs)

    watching = start("report", "sweep", "--watch")
    cluster.ask("scancel", array)
    watched = ended(watching)
    found = records(sweep)
    assert found["seed=0"]["status"] == found["seed=1"]["status"] == "preempted"
    assert found["seed=1"]["error"] == f"SLURM job {jobs[1]}: cancelled"
    assert found["seed=1"]["error"] in watched.out
    log = next(sweep.glob("seed=0-*/log.txt")).read_text()
    assert "SIGTERM: " in log
    assert "requeued" not in log  # no requeue was tried

    (tmp_path / "slow").unlink()
    resumed = login("train", *arguments, "hydra.launcher.at_once=2")
    assert resumed.code == 0, resumed.err
    assert "2 jobs submitted to SLURM\n" in resumed.out
    assert job_of(sweep, "seed=0").partition("_")[0] != array


def test_a_search_prunes_a_job_on_its_node(
    login: Command, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that asks a run to stop reaches it there; both of its ranks end."""
    pytest.importorskip("optuna", "4.5", reason="needs the extra attention-lab[search]")
    monkeypatch.setenv("PAUSE", "0.2")
    (tmp_path / "slow").touch()
    long = ("trainer.max_epochs=200", "attention=slow", "optimizer.lr=choice(0.1,0.2)")
    search = (
        *("hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=1"),
        "hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner",
        "+hydra.sweeper.pruner.upper=-1.0",
    )
    ranks = ("trainer=ddp_cpu", "trainer.devices=2")
    answer = login("train", *SWEEP, *ranks, *long, *search)
    assert answer.code == 0, answer.err
    found = records(tmp_path / "sweep")
    assert [record["status"] for record in found.values()] == ["pruned"]
    eventually(lambda: not cluster.queue(), "the job to end")


def test_a_sweep_that_stops_at_a_failure_cancels_its_other_jobs(
    login: Command, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running job saves and ends, a waiting one does not start; keys are zipped."""
    monkeypatch.setenv("PAUSE", "1")
    (tmp_path / "slow").touch()
    zipped = ("attention=slow,broken,additive", "optimizer.lr=0.1,0.2,0.3")
    one = ("sweep.max_failures=1", "hydra.launcher.at_once=2", "data.examples=800")
    arguments = (*SWEEP, *zipped, "sweep.zip=[attention,optimizer.lr]", *one)
    answer = login("train", *arguments)
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("attention-lab: sweep.max_failures=1: stopped, the last to fail")
    eventually(lambda: not cluster.queue(), "the other jobs to be cancelled")
    found = records(tmp_path / "sweep")
    assert found["attention=broken,optimizer.lr=0.2"]["status"] == "failed"
    slow = found["attention=slow,optimizer.lr=0.1"]
    assert (slow["status"], slow["error"].partition(":")[0]) == ("preempted", "SIGTERM")

    (tmp_path / "slow").unlink()
    again = login("train", *arguments)
    assert again.code == 1
    assert "1 failed earlier, of 3 runs" in again.out
    found = records(tmp_path / "sweep")
    assert sorted(record["status"] for record in found.values()) == ["failed", *["finished"] * 2]
