"""What `attention-lab doctor` finds, and what it says that a command would launch."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attention_lab.cli import surroundings
from tests.cli.conftest import Command
from tests.recording.test_wandb import forget_login


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in anywhere, there is no SLURM, and runs have one thread."""
    home = tmp_path.parent / "home"
    forget_login(monkeypatch, home)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    bin_ = tmp_path.parent / f"{tmp_path.name}-bin"
    bin_.mkdir()
    (bin_ / "git").symlink_to(shutil.which("git") or "/usr/bin/git")
    monkeypatch.setenv("PATH", str(bin_))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


#: Puts a program of a line of shell where programs are looked for.
Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Makes programs, in place of SLURM's."""

    def make(name: str, line: str) -> None:
        path = tmp_path.parent / f"{tmp_path.name}-bin" / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    return make


def found(command: Command, code: int = 0) -> dict[str, str]:
    """The lines of `attention-lab doctor`, with their marks, by what they are about."""
    answer = command("doctor")
    assert (answer.code, answer.err) == (code, "")
    lines = answer.out.splitlines()
    return {line[2:16].rstrip(): line[:2] + line[16:] for line in lines}


def test_what_there_is_stands_in_a_line_each(command: Command, tmp_path: Path) -> None:
    lines = found(command)
    assert list(lines) == [
        *("attention-lab", "Python", "packages", "CPU", "SLURM", "disk"),
        *("GPU", "backends", "W&B"),
    ]
    assert f"torch {torch.__version__}, " in lines["packages"]
    assert f"{len(os.sched_getaffinity(0))} " in lines["CPU"]
    assert lines["SLURM"].startswith("  none: no sbatch here")
    assert lines["disk"].endswith(" GiB free for outputs")
    assert lines["W&B"].startswith("  offline: nobody is logged in to https://")
    assert lines["W&B"].endswith("(`wandb login`)")
    assert list(tmp_path.iterdir()) == []


def test_the_revision_is_that_of_the_source(command: Command) -> None:
    source = Path(__file__).parents[2]
    asked = ["git", "-C", str(source), "describe", "--always", "--abbrev=40"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    line = found(command)["attention-lab"]
    assert f"{source / 'src' / 'attention_lab'}; " in line
    assert (f"git {answer.stdout.strip()}" if answer.returncode == 0 else "no git") in line


def test_outputs_that_cannot_be_written_keep_a_run_from_working(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "outputs").touch()
    assert found(command, code=1)["disk"] == (
        "✗ outputs is no directory; hydra.run.dir=… and hydra.sweep.dir=… choose another place"
    )


def test_a_disk_that_is_nearly_full(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, mark, code in ((1 << 29, "!", 0), (1 << 19, "✗", 1)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert found(command, code)["disk"].startswith(f"{mark} {free / 2**30:.1f} GiB free")


def test_more_threads_than_cores_are_marked(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 1))
    assert found(command)["CPU"].startswith("! ")
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
    assert found(command)["CPU"].startswith("  ")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS is not set" in found(command)["CPU"]


def test_a_missing_package_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(surroundings.PACKAGES, "gone", "a-package-that-is-not-there")
    line = found(command, code=1)["packages"]
    assert line.startswith("✗ a-package-that-is-not-there missing; `pip install")


def test_slurm_as_it_answers(
    command: Command, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("sbatch", "exit 0")
    program("srun", "echo slurm 99.1")
    program("scontrol", "echo nobody there >&2; exit 1")
    assert found(command)["SLURM"] == "! does not answer: nobody there; see SLURM_CONF"
    program("scontrol", "echo it is up")
    assert found(command)["SLURM"][2:].startswith("slurm 99.1; ")
    for name, value in (("JOB_ID", "7"), ("JOB_NUM_NODES", "2"), ("NTASKS", "8")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert found(command)["SLURM"] == "  inside its job 7, with nodes: 2, tasks: 8"


def test_why_there_is_no_gpu(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    driver = tmp_path / "version"
    monkeypatch.setattr(surroundings, "DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert found(command)["GPU"] == "  none: torch is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert found(command)["GPU"] == "  none: there is no NVIDIA driver"
    driver.touch()
    assert found(command)["GPU"].startswith("! none: torch's CUDA 13.0 does not work with the dr")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found(command)["GPU"] == "! none: CUDA_VISIBLE_DEVICES='' hides them; unset it"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert found(command)["GPU"].startswith("! none: torch is built without CUDA; there is a dr")
    assert "sdpa, eager train on cpu; flex infers only" in found(command)["backends"]


def test_gpus_are_counted_by_kind(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [SimpleNamespace(name=name, total_memory=80 << 30) for name in ("A", "A", "B")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: kinds[i])
    lines = found(command)
    assert lines["GPU"] == "  2 × A (80 GiB), 1 × B (80 GiB)"
    assert lines["backends"] == "  sdpa, eager, flex train on cuda"


def test_wandb_as_a_run_would_have_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("a", "b"):
        part = tmp_path / "outputs" / "sweep" / run / "wandb" / "offline-run-1-x"
        part.mkdir(parents=True)
    (part / "run-x.wandb.synced").touch()
    assert "; 1 runs below outputs are yet to be sent" in found(command)["W&B"]
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert found(command)["W&B"].startswith("  online: logged in to https://")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert found(command)["W&B"].startswith("  off: WANDB_MODE=disabled")
