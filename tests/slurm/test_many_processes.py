"""Runs of several processes on several nodes of a real SLURM."""

import json
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster, eventually
from tests.slurm.conftest import SWEEP, TINY, Start, ended, records

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"


def test_a_run_on_two_nodes_has_a_process_on_each(
    start: Start, cluster: Cluster, tmp_path: Path
) -> None:
    many = ("trainer=ddp_cpu", "trainer.num_nodes=2", "trainer.devices=1")
    answer = ended(start("train", *SWEEP, *many))
    assert answer.code == 0, answer.err
    (record,) = records(tmp_path / "sweep").values()
    assert record["status"] == "finished"
    (directory,) = (path.parent for path in (tmp_path / "sweep").glob("*/status.json"))
    job = json.loads((directory / "slurm.json").read_text())["job"]
    logs = sorted(path.name for path in (tmp_path / "sweep" / "slurm").glob(f"{job}_*_log.out"))
    assert logs == [f"{job}_{rank}_log.out" for rank in (0, 1)]
    nodes = cluster.ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%N")
    assert nodes == "127.0.0.[2-3]\n"


def test_the_example_scripts_go_on_in_their_directory(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    small = ("--parsable", "--gpus-per-node=0", "--cpus-per-task=1")
    run = (*TINY, "--config-dir", "mine", "attention=slow", "trainer.max_steps=4")
    small_run = (run[0], *run[2:])  # the script chooses the trainer
    asked = environment | {"TRAINER": "ddp_cpu", "PAUSE": "0.5"}
    jobs = {}
    for script, tasks in (("one_node", 2), ("two_nodes", 1)):
        job = cluster.ask(
            *("sbatch", *small, f"--ntasks-per-node={tasks}", str(SCRIPTS / script), *small_run),
            cwd=tmp_path,
            **asked,
        ).strip()
        directory = tmp_path / "outputs" / f"slurm-{job}"
        eventually(lambda at=directory: _record(at).get("progress"), f"{script} to train")
        cluster.ask("scancel", "--signal=USR2", job)
        jobs[job] = directory
    (tmp_path / "slow").unlink()
    for job, directory in jobs.items():
        cluster.hurry(job)
        eventually(lambda at=directory: _record(at).get("status") == "finished", f"job {job}")
        assert len(_record(directory)["resumed"]) == 1


def _record(directory: Path) -> dict[str, Any]:
    status = directory / "status.json"
    return json.loads(status.read_text()) if status.exists() else {}
