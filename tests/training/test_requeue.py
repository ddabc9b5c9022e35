"""A preempted SLURM job is requeued after a checkpoint is saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from attention_lab.training.preemption import SIGNALS, SLURM_SIGNALS, Preempted
from attention_lab.training.tasks.base import AttentionTask
from tests.training.conftest import train_until_preempted


@pytest.mark.parametrize("number", SIGNALS)
def test_a_preempted_job_is_requeued_after_it_has_saved(
    number: signal.Signals,
    scontrol: Path,
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    scontrol.write_text(scontrol.read_text() + f"stat {last} > /dev/null\n")
    step = AttentionTask.training_step

    def signalled(self: AttentionTask, batch: Any, batch_index: int) -> Tensor:
        if self.global_step == 2:
            os.kill(os.getpid(), number)
        return step(self, batch, batch_index)

    monkeypatch.setattr(AttentionTask, "training_step", signalled)
    reason = train_until_preempted(config, tmp_path / "run")
    assert reason == f"{number.name}: saved at step 3"
    calls = tmp_path / "scontrol-calls"
    if number not in SLURM_SIGNALS:  # from scancel, or from SLURM, which requeues the job itself
        assert not calls.exists()
    else:
        assert calls.read_text() == "requeue 7\n"


def test_a_job_preempted_during_imports_is_requeued(scontrol: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attention_lab", "train", "data=digits", "trainer=cpu"]
    process = subprocess.Popen(
        [*command, "trainer.max_steps=1", f"hydra.run.dir={tmp_path / 'run'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while _blocked_signals(process.pid) != {signal.SIGUSR1, signal.SIGUSR2}:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGUSR2)
    _, output = process.communicate()
    again = f"the same command with hydra.run.dir={tmp_path / 'run'} resumes it"
    assert output == f"SLURM job 7 is requeued\nSIGUSR2; {again}\n"
    assert process.returncode == 1
    assert (tmp_path / "scontrol-calls").read_text() == "requeue 7\n"


def _blocked_signals(pid: int) -> set[signal.Signals]:
    """The signals that a process blocks; all of them while it starts another process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def test_a_task_of_a_job_array_is_requeued(
    scontrol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    Preempted([signal.SIGUSR1]).requeue()
    assert (tmp_path / "scontrol-calls").read_text() == "requeue 5_2\n"


def test_a_refused_requeue_is_reported_in_one_line(
    scontrol: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Preempted([signal.SIGUSR2]).requeue()
    assert capsys.readouterr().err == "SLURM job 7 is requeued\n"
    scontrol.write_text("#!/bin/sh\necho 'Requested operation\nis disabled' >&2\nexit 1\n")
    Preempted([signal.SIGUSR2]).requeue()
    assert capsys.readouterr().err == "not requeued: Requested operation is disabled\n"
    monkeypatch.setenv("PATH", "")
    Preempted([signal.SIGUSR2]).requeue()
    output = capsys.readouterr().err
    assert output.startswith("not requeued: ")
    assert "scontrol" in output
    assert output.count("\n") == 1


def test_nothing_is_requeued_outside_slurm(
    scontrol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    Preempted([signal.SIGUSR1]).requeue()
    assert not (tmp_path / "scontrol-calls").exists()
