"""Runs of several processes on several nodes of a real SLURM."""

import json
import shlex
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster, eventually
from tests.slurm.conftest import SWEEP, TINY, Start, ended, records

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"


def test_a_run_has_a_process_on_each_of_two_nodes_and_is_requeued_before_it_starts(
    start: Start, cluster: Cluster, tmp_path: Path
) -> None:
    many = ("trainer=ddp_cpu", "trainer.num_nodes=2", "trainer.devices=1")
    going = start("train", *SWEEP, *many)
    eventually(lambda: list(tmp_path.glob("sweep/*/slurm.json")), "the job to be submitted")
    (ticket,) = tmp_path.glob("sweep/*/slurm.json")
    job = json.loads(ticket.read_text())["job"]
    logs = [tmp_path / "sweep" / "slurm" / f"{job}_{rank}_log.out" for rank in (0, 1)]
    for log in logs:  # the process imports libraries and handles no signal yet
        eventually(lambda log=log: log.exists() and "Starting" in log.read_text(), f"{log}")
    cluster.ask("scancel", "--signal=USR2", job)
    cluster.hurry(job)
    answer = ended(going)
    assert answer.code == 0, answer.err
    assert all(log.read_text().count("Starting") == 2 for log in logs)
    (record,) = records(tmp_path / "sweep").values()
    assert record["status"] == "finished"
    assert f"SLURM job {job} is requeued" in (ticket.parent / "log.txt").read_text()
    nodes = cluster.ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%N")
    assert nodes == "127.0.0.[2-3]\n"


def test_a_step_of_srun_is_one_run(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    """Also if --ntasks requested its tasks."""
    small = (*TINY, "trainer=ddp_cpu", "trainer.devices=2", "trainer.max_steps=1")
    command = ("srun", "--ntasks=2", "attention-lab", "train", *small, "hydra.run.dir=run")
    cluster.ask(*command, cwd=tmp_path, **environment)
    assert _record(tmp_path / "run")["status"] == "finished"


def test_an_interactive_shell_is_one_process_whatever_its_tasks(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    train = shlex.join(
        ["attention-lab", "train", *TINY, "trainer.max_steps=1", "hydra.run.dir=run"]
    )
    shell = shlex.join(["srun", "--ntasks=2", "--pty", "bash", "-ic", f"{train}; true"])
    said = cluster.ask("script", "-qec", shell, "/dev/null", cwd=tmp_path, **environment)
    assert "SLURM_STEP_NUM_TASKS=2 ignored: this shell is an interactive step of SLURM" in said
    assert _record(tmp_path / "run")["status"] == "finished"
    assert (tmp_path / "run" / "metrics.csv").exists()


def test_the_example_scripts_resume_in_their_directory(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    small = ("--parsable", "--gpus-per-node=0", "--cpus-per-task=1")
    run = (*TINY, "--config-dir", "mine", "attention=slow", "data.examples=800")
    small_run = (run[0], *run[2:])  # the script chooses the trainer
    asked = environment | {"TRAINER": "ddp_cpu", "PAUSE": "0.5"}
    jobs = {}
    for script, tasks in (("one_node", 2), ("two_nodes", 1)):
        submitted = cluster.ask(
            *("sbatch", *small, f"--ntasks-per-node={tasks}", str(SCRIPTS / script), *small_run),
            cwd=tmp_path,
            **asked,
        )
        jobs[submitted.strip()] = tmp_path / "outputs" / f"slurm-{submitted.strip()}"
    for job, directory in jobs.items():
        eventually(lambda at=directory: _record(at).get("progress"), f"{directory} to train")
        cluster.ask("scancel", "--signal=USR2", job)
    (tmp_path / "slow").unlink()
    for job, directory in jobs.items():
        cluster.hurry(job)
        eventually(lambda at=directory: _record(at).get("status") == "finished", f"job {job}")
        assert len(_record(directory)["resumed"]) == 1


def _record(directory: Path) -> dict[str, Any]:
    status = directory / "status.json"
    return json.loads(status.read_text()) if status.exists() else {}
