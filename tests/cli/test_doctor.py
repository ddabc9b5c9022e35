"""`attention-lab doctor`: checks of the environment."""

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attention_lab.attention.backends.cpu import additive
from attention_lab.cli import doctor_checks
from tests.cli.conftest import Command, Program
from tests.tracking.servers import refusing, silent

pytestmark = pytest.mark.usefixtures("bare")


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled, as other tests would then go without the kernels, too."""
    monkeypatch.setattr(additive, "compiled_kernels", lambda: None)


def found(command: Command, code: int = 0) -> dict[str, str]:
    """The lines of `attention-lab doctor`, with their marks, by their labels."""
    answer = command("doctor")
    assert (answer.code, answer.err) == (code, "")
    lines = answer.out.splitlines()
    return {line[2:16].rstrip(): line[:2] + line[16:] for line in lines}


def test_each_check_is_a_line(command: Command, tmp_path: Path) -> None:
    lines = found(command)
    assert list(lines) == [
        *("attention-lab", "Python", "packages", "CPU", "SLURM", "disk"),
        *("GPU", "backends", "C kernels", "W&B"),
    ]
    assert f"torch {torch.__version__}, " in lines["packages"]
    assert f"{len(os.sched_getaffinity(0))} " in lines["CPU"]
    assert lines["SLURM"].startswith("  none: no sbatch here")
    assert lines["disk"].endswith(" GiB free for runs")
    assert lines["C kernels"].startswith("! cannot be compiled here, so additive attention is slow")
    assert lines["W&B"].startswith("  offline: not logged in to https://")
    assert lines["W&B"].endswith("(`wandb login`)")
    assert list(tmp_path.iterdir()) == []


def test_the_revision_is_that_of_the_source(command: Command) -> None:
    source = Path(__file__).parents[2]
    asked = ["git", "-C", str(source), "describe", "--always", "--abbrev=40"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    line = found(command)["attention-lab"]
    assert f"{source / 'src' / 'attention_lab'}; " in line
    assert (f"git {answer.stdout.strip()}" if answer.returncode == 0 else "no git") in line


def test_outputs_that_are_not_writable_are_marked(command: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    assert found(command, code=1)["disk"] == (
        "✗ outputs is not a directory; set hydra.run.dir=… or hydra.sweep.dir=…"
    )


def test_a_disk_that_is_nearly_full(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, mark, code in ((1 << 29, "!", 0), (1 << 19, "✗", 1)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda _, usage=usage: usage)
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
    monkeypatch.setitem(doctor_checks.PACKAGES, "gone", "a-package-that-is-not-there")
    line = found(command, code=1)["packages"]
    assert line.startswith("✗ a-package-that-is-not-there missing; `pip install")


def test_the_slurm_check_queries_slurm(
    command: Command, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("sbatch", "exit 0")
    program("srun", "echo slurm 99.1")
    program("scontrol", "echo nobody there >&2; exit 1")
    assert found(command)["SLURM"] == "! does not answer: nobody there; check SLURM_CONF"
    program("scontrol", "echo it is up")
    assert found(command)["SLURM"][2:].startswith("slurm 99.1; ")
    for name, value in (("JOB_ID", "7"), ("JOB_NUM_NODES", "2"), ("NTASKS", "8")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert found(command)["SLURM"] == "  inside job 7; nodes: 2, tasks: 8"


def test_the_reason_for_no_gpu_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    driver = tmp_path / "version"
    monkeypatch.setattr(doctor_checks, "DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert found(command)["GPU"] == "  none: torch is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert found(command)["GPU"] == "  none: no NVIDIA driver"
    driver.touch()
    assert found(command)["GPU"].startswith("! none: torch's CUDA 13.0 does not support the dr")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found(command)["GPU"] == "! none: CUDA_VISIBLE_DEVICES='' hides them; unset it"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert found(command)["GPU"].startswith("! none: torch is built without CUDA; there is a dr")
    trained = "sdpa, fused, tiled, eager train on cpu; flex: inference only"
    assert trained in found(command)["backends"]


def test_gpus_are_counted_by_kind(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [SimpleNamespace(name=name, total_memory=80 << 30) for name in ("A", "A", "B")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: kinds[i])
    lines = found(command)
    assert lines["GPU"] == "  2 × A (80 GiB), 1 × B (80 GiB)"
    assert lines["backends"] == "  sdpa, fused, tiled, eager, flex train on cuda"


def test_the_mode_of_wandb_is_that_of_a_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("a", "b"):
        part = tmp_path / "outputs" / "sweep" / run / "wandb" / "offline-run-1-x"
        part.mkdir(parents=True)
    (part / "run-x.wandb.synced").touch()
    assert "; 1 of the runs in outputs not uploaded" in found(command)["W&B"]
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("attention_lab.tracking.wandb_logger.server_problem", lambda _: None)
    assert found(command)["W&B"].startswith("  online: logged in to https://")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert found(command)["W&B"].startswith("  disabled: WANDB_MODE=disabled")
    monkeypatch.setenv("WANDB_MODE", "ofline")
    assert "did you mean offline?" in found(command, code=1)["W&B"]


@pytest.mark.parametrize(
    ("server", "key", "said"),
    [
        (silent, "0" * 40, "did not answer within 1 s, so runs will be logged offline"),
        (refusing, "0" * 40, "user is not logged in, so runs will be logged offline"),
        (silent, "abc", "API key must have 40+ characters, has 3, so runs will be logged offline"),
    ],
)
def test_a_server_that_refuses_runs_is_found(
    server: Callable[[], AbstractContextManager[str]],
    key: str,
    said: str,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("attention_lab.tracking.wandb_logger.CHECK_TIMEOUT", 1)
    monkeypatch.setenv("WANDB_API_KEY", key)
    with server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        line = found(command)["W&B"]
    assert line.startswith("! ")
    # On a busy machine the check itself may be too slow, which is said in other words.
    in_time = said.replace("within 1 s", "in time")
    assert line.endswith((said, in_time))
    assert list(tmp_path.iterdir()) == []


def test_doctor_checks_the_environment_only(command: Command) -> None:
    message = "doctor: checks the environment only; use attention-lab train … --dry-run"
    assert command("doctor", "train", "-m", "seed=0,1") == (2, "", f"attention-lab: {message}\n")
    answer = command("doctor", "attention=additive")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
