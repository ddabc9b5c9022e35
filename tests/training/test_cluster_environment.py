"""A process finds its launcher in environment variables, and ignores leftover ones."""

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from attention_lab.training.distributed import cluster_environment
from attention_lab.training.distributed.cluster_environment import (
    ignore_leftovers,
    is_interactive_step,
    launcher,
    rank,
    world_size,
)
from tests.cli.conftest import fresh
from tests.conftest import Compose
from tests.runs import train
from tests.training.conftest import read_status

TORCHRUN = {
    "RANK": "2",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
SHELL = {
    **STEP,
    "SLURM_PROCID": "0",
    "SLURM_NODEID": "0",
    "SLURM_PTY_PORT": "40321",
    "SLURM_TASK_PID": "1",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment without launchers' variables of the process that runs the tests."""
    known = (*cluster_environment.TORCHRUN, *cluster_environment.TORCHRUN_EXTRAS)
    for name in list(os.environ):
        if name in known or name.startswith(("SLURM_", "OMPI_", "PMI", "JSM_", "MV2_")):
            monkeypatch.delenv(name)
    before = dict(os.environ)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    "leftovers",
    [
        {"SLURM_PROCID": "3"},
        {"LOCAL_RANK": "1"},
        {"JSM_NAMESPACE_RANK": "2"},
        {"RANK": "0"},
        {"RANK": "2"},
        {"WORLD_SIZE": "4"},
        {"MASTER_ADDR": "node17", "MASTER_PORT": "29500"},
        {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_RANK": "1", "PMI_SIZE": "2"},
        {"SLURM_STEP_NUM_TASKS": "4"},
        {name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"},
        TORCHRUN | {"WORLD_SIZE": "2"},
        TORCHRUN | {"RANK": "first"},
        {name: value for name, value in STEP.items() if name != "SLURM_PROCID"},
    ],
)
def test_incomplete_launcher_variables_are_ignored_with_one_warning(
    leftovers: dict[str, str], environment: pytest.MonkeyPatch
) -> None:
    os.environ.update(leftovers)
    with pytest.warns(UserWarning, match="ignored: not all variables of") as warned:
        ignore_leftovers()
    (line,) = (str(warning.message) for warning in warned)
    assert (launcher(), rank(), world_size()) == (None, 0, 1)
    gone = {name: value for name, value in leftovers.items() if name not in os.environ}
    assert gone
    assert all(f"{name}={value}" in line for name, value in gone.items())
    assert {leftovers[name] for name in leftovers if name not in gone} <= {"0", "1", "7"}


@pytest.mark.parametrize(
    ("given", "by", "number"),
    [
        ({}, None, 1),
        (TORCHRUN, "torchrun", 4),
        (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}, "torchrun", 1),
        (STEP, "srun", 4),
        (STEP | {"PMI_RANK": "2", "PMI_SIZE": "4", "MASTER_ADDR": "node1"}, "srun", 4),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, "srun", 1),
        (STEP | TORCHRUN, "torchrun", 4),  # by srun, once on each node
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None, 1),  # by sbatch
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, None, 1),
    ],
)
def test_complete_launcher_variables_are_kept_without_a_warning(
    given: dict[str, str], by: str | None, number: int
) -> None:
    os.environ.update(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ignore_leftovers()
    assert (launcher(), world_size()) == (by, number)
    assert given.items() <= os.environ.items()


def test_a_task_of_srun_ignores_the_rank_of_another_launcher() -> None:
    os.environ.update(STEP | {"LOCAL_RANK": "3", "MASTER_ADDR": "node1"})
    with pytest.warns(UserWarning, match="^LOCAL_RANK=3 ignored: srun started this process$"):
        ignore_leftovers()
    assert (launcher(), rank(), world_size()) == ("srun", 2, 4)
    assert os.environ["MASTER_ADDR"] == "node1"


def test_an_interactive_shell_is_a_single_process() -> None:
    os.environ.update(SHELL)
    assert is_interactive_step()
    assert world_size() == 1
    with pytest.warns(UserWarning, match="^SLURM_STEP_NUM_TASKS=4 ignored: this shell is an inter"):
        ignore_leftovers()
    os.environ.update(SHELL | {"SLURM_TASK_PID": str(os.getpid())})  # srun --pty attention-lab
    assert (launcher(), world_size()) == ("srun", 4)
    os.environ.update(SHELL | {"SLURM_PROCID": "1"})  # which has no terminal
    assert world_size() == 4


def test_a_run_with_leftover_variables_writes_all_its_records(
    tiny_digits: Compose, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    """Lightning may have been imported while the variables were set."""
    os.environ.update({"SLURM_PROCID": "3", "JSM_NAMESPACE_RANK": "3"})
    environment.setattr(rank_zero_only, "rank", 3)
    with pytest.warns(UserWarning, match="SLURM_PROCID=3, JSM_NAMESPACE_RANK=3 ignored"):
        train(tiny_digits("trainer.max_steps=1"), tmp_path / "run", [])
    assert read_status(tmp_path / "run")["status"] == "finished"
    assert (tmp_path / "run" / "metrics.csv").exists()


def test_the_command_warns_of_leftover_variables_and_trains(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    os.environ.update({"LOCAL_RANK": "1", "SLURM_PROCID": "3", "RANK": "0"})
    done = fresh(
        *("-m", "attention_lab", "train", "data=digits", "model.d_model=16", "trainer=ddp_cpu"),
        *("logger=csv", "trainer.max_steps=1", "trainer.devices=1", "hydra.run.dir=run"),
        cwd=tmp_path,
        python=Path(sys.executable),
    )
    assert done.code == 0
    assert done.err == (
        "attention-lab: RANK=0, LOCAL_RANK=1, SLURM_PROCID=3 ignored: not all variables of "
        "torchrun or srun are set, so this is a single process\n"
    )
    assert (tmp_path / "run" / "metrics.csv").exists()
