"""Runs that a real SLURM interrupts end like undisturbed ones."""

from pathlib import Path

import pytest

from attention_lab.tracking.run_directory import read_config
from tests.runs import train
from tests.slurm.cluster import Cluster, eventually
from tests.slurm.conftest import SWEEP, Start, ended, job_of, records
from tests.training.conftest import read_weights, result, rows, same_weights

#: About a minute of training: time for interruptions.
RUN = ("attention=slow", "data.examples=800", "model.dropout=0.1", "trainer.log_every_n_steps=1")


def test_a_run_ends_the_same_after_a_requeue_a_time_limit_or_a_node_failure(
    start: Start, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweep"
    limits = ("hydra.launcher.time=60", "hydra.launcher.signal=50")
    (tmp_path / "slow").touch()
    going = start("train", *SWEEP, *RUN, *limits, "seed=0,1,2", PAUSE="0.5")
    eventually(
        lambda: sum(bool(each["progress"]) for each in records(sweep).values()) == 3,
        "three runs to train",
    )
    # Two fit on the first node.
    places = {job: node for job, node in _places(cluster).items() if job in cluster.queue()}
    (bereft,) = (job for job, node in places.items() if node == cluster.nodes[1])
    requeued, out_of_time = (job for job in places if job != bereft)
    cluster.kill_node(cluster.nodes[1])
    cluster.ask("scontrol", "requeue", requeued)
    cluster.ask("scontrol", "update", f"JobId={out_of_time}", "TimeLimit=1")
    for job in (out_of_time, bereft):
        eventually(lambda job=job: cluster.queue().get(job) == "PENDING", f"{job} to be requeued")
    assert going.poll() is None
    (tmp_path / "slow").unlink()
    cluster.ask("scontrol", "update", f"JobId={out_of_time}", "TimeLimit=60")
    for job in places:
        cluster.hurry(job)
    answer = ended(going)
    assert answer.code == 0, answer.err
    assert answer.out.count("finished   ") == 3
    assert _places(cluster)[bereft] == cluster.nodes[0]
    cluster.start_node(cluster.nodes[1])

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    saved = {job: "saved at step" in _log(sweep, job) for job in places}
    assert saved == {requeued: True, out_of_time: True, bereft: False}
    for name, record in records(sweep).items():
        assert len(record["resumed"]) == 1, name
        (directory,) = sweep.glob(f"{name}-*")
        undisturbed = tmp_path / "undisturbed" / directory.name
        train(read_config(directory), undisturbed, record["overrides"])
        for checkpoint in ("best", "last"):
            weights = read_weights(undisturbed, checkpoint)
            assert same_weights(read_weights(directory, checkpoint), weights), (name, checkpoint)
        assert rows(directory) == rows(undisturbed)
        assert result(directory) == result(undisturbed)


def _places(cluster: Cluster) -> dict[str, str]:
    """The node of each job, also of those that have ended."""
    lines = cluster.ask("squeue", "--noheader", "--states=all", "--format=%i %N", "--array")
    return {job: node for job, _, node in (line.partition(" ") for line in lines.splitlines())}


def _log(sweep: Path, job: str) -> str:
    (log,) = (
        path
        for path in sweep.glob("*/log.txt")
        if job_of(sweep, path.parent.name.rpartition("-")[0]) == job
    )
    return log.read_text()
