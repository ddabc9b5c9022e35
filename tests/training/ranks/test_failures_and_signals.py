"""Kills, signals and errors in a run on two ranks."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_directory import RunExists
from attention_lab.training.finite import Diverged
from tests.conftest import Compose
from tests.runs import launch
from tests.training.conftest import assert_identical, read_status
from tests.training.ranks.conftest import (
    OPTIONS,
    TWO,
    Launcher,
    children,
    fsdp,
    has_checkpoint,
    servers,
    wait_until,
)


def test_a_run_whose_launching_process_is_killed_resumes_exactly(
    config: dict[str, Any], two: Path, own_launcher: Launcher, tmp_path: Path
) -> None:
    own_launcher.start(config, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    own_launcher.process.kill()
    own_launcher.process.wait()
    # The ranks end and release the lock.
    wait_until(lambda: not is_locked(tmp_path / "run"))
    launch(config, tmp_path / "run", [])
    assert len(read_status(tmp_path / "run")["resumed"]) == 1
    assert_identical(tmp_path / "run", two)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_preempted_run_resumes_exactly(
    strategy: str,
    config: dict[str, Any],
    two: Path,
    sharded: Path,
    launcher: Launcher,
    tmp_path: Path,
) -> None:
    config, whole = (fsdp(config), sharded) if strategy == "fsdp" else (config, two)
    launcher.start(config, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    launcher.process.send_signal(signal.SIGUSR1)
    code, output = launcher.ended()
    assert code == 1
    status = read_status(tmp_path / "run")
    assert status["status"] == "preempted", output
    assert status["error"].startswith("SIGUSR1: saved at step ")
    assert output.count(f"the same command with hydra.run.dir={tmp_path / 'run'} resumes it") == 1
    alone = {**config, "trainer": {**config["trainer"], "devices": 1}}
    with pytest.raises(RunExists, match=r"trainer\.devices is 2 there, 1 here"):
        launch(alone, tmp_path / "run", [])
    launch(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_fails_the_run_with_an_error_that_names_it(
    rank: int, long: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    launcher.start(long, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    os.kill(children(launcher.process)[rank], signal.SIGKILL)
    code, output = launcher.ended()
    status = read_status(tmp_path / "run")
    assert status["status"] == "failed"
    assert status["error"].startswith(f"process {rank} of 2: killed by SIGKILL")
    assert code == 1
    assert status["error"] in output


RAISE = """
import os
from attention_lab.training.tasks.base import AttentionTask
step = AttentionTask.training_step
def training_step(self, *arguments):
    if os.environ.get("RANK") == "{rank}" and self.global_step == 3:
        raise RuntimeError("out of luck")
    return step(self, *arguments)
AttentionTask.training_step = training_step
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_exception_is_reported_as_the_cause(
    rank: int, long: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    """The reported cause is not the connection that the other rank lost."""
    launcher.start(long, tmp_path / "run", RAISE.format(rank=rank))
    code, output = launcher.ended()
    status = read_status(tmp_path / "run")
    name = "" if rank == 0 else "process 1 of 2: "
    assert (status["status"], status["error"]) == ("failed", f"{name}RuntimeError: out of luck")
    assert code == 1
    assert status["error"] in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_of_ranks_is_not_lost(
    number: signal.Signals, long: dict[str, Any], own_launcher: Launcher, tmp_path: Path
) -> None:
    own_launcher.start(long, tmp_path / "run")
    wait_until(lambda: servers(own_launcher.process))
    own_launcher.process.send_signal(number)
    code, _ = own_launcher.ended()
    assert code == 1
    if (tmp_path / "run" / "status.json").exists():
        assert read_status(tmp_path / "run")["status"] == "preempted"


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_to_all_processes_preempts_the_run(
    number: signal.Signals, long: dict[str, Any], own_launcher: Launcher, tmp_path: Path
) -> None:
    """SLURM and a closed terminal send a signal to all processes, the fork server included."""
    own_launcher.start(long, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    for pid in [
        *servers(own_launcher.process),
        *children(own_launcher.process),
        own_launcher.process.pid,
    ]:
        os.kill(pid, number)
    code, output = own_launcher.ended()
    assert code == 1
    status = read_status(tmp_path / "run")
    assert status["status"] == "preempted", output
    assert status["error"].startswith(f"{number.name}: saved at step ")


LATE = """
import os, pathlib, time
from attention_lab.training.preemption import Preemption
on_train_end = Preemption.on_train_end
def late(self, trainer, module):
    if os.environ["RANK"] == "0":
        pathlib.Path({end!r}).touch()
        while self.signals.first is None:
            time.sleep(0.01)
    on_train_end(self, trainer, module)
Preemption.on_train_end = late
"""


def test_a_signal_at_the_end_of_training_stops_all_ranks(
    config: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    """The signal arrives when one rank waits for rank 0, which is slower."""
    end = tmp_path / "end"
    launcher.start(config, tmp_path / "run", LATE.format(end=str(end)))
    wait_until(end.exists)
    time.sleep(0.5)
    launcher.process.send_signal(signal.SIGUSR1)
    code, output = launcher.ended()
    assert code == 1
    status = read_status(tmp_path / "run")
    assert (status["status"], status["error"]) == ("preempted", "SIGUSR1: saved at step 45"), output


def test_ctrl_c_ends_all_ranks_and_is_recorded(
    long: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    launcher.start(long, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    ranks = children(launcher.process)
    assert len(ranks) == 2
    launcher.process.send_signal(signal.SIGINT)
    code, _ = launcher.ended()
    assert code == 1
    status = read_status(tmp_path / "run")
    assert (status["status"], status["error"]) == ("preempted", "interrupted")
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def test_a_nan_loss_ends_all_ranks(tiny_digits: Compose, tmp_path: Path) -> None:
    config = tiny_digits(*OPTIONS, *TWO, "optimizer.lr=1e30", "scheduler.warmup_steps=0")
    with pytest.raises(Diverged, match="loss is nan at step"):
        launch(config, tmp_path / "run", [])
    assert read_status(tmp_path / "run")["status"] == "diverged"
