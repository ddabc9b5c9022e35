"""What `attention-lab doctor` finds, and what it says that a command would launch."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attention_lab.cli import doctor_checks
from attention_lab.tracking.lock import Lock
from tests.cli.conftest import Command
from tests.tracking.servers import refusing, silent
from tests.tracking.test_wandb_logger import forget_login


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
    assert lines["disk"].endswith(" GiB free for runs")
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
    monkeypatch.setattr(doctor_checks, "DRIVER", driver)
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
    monkeypatch.setattr("attention_lab.tracking.wandb_logger.problem", lambda _: None)
    assert found(command)["W&B"].startswith("  online: logged in to https://")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert found(command)["W&B"].startswith("  off: WANDB_MODE=disabled")
    monkeypatch.setenv("WANDB_MODE", "ofline")
    assert "did you mean offline?" in found(command, code=1)["W&B"]


@pytest.mark.parametrize(
    ("server", "key", "said"),
    [
        (silent, "0" * 40, "did not answer within 1 s, so runs would be logged offline"),
        (refusing, "0" * 40, "user is not logged in, so runs would be logged offline"),
        (silent, "abc", "API key must have 40+ characters, has 3, so runs would be logged offline"),
    ],
)
def test_a_server_that_takes_no_runs_is_found(
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
        one = launched(command, "train", *TINY, "logger=wandb", "hydra.run.dir=there/run")["W&B"]
    assert line.startswith("! ")
    assert line.endswith(said)
    assert one[0].startswith("offline: ")
    assert list(tmp_path.iterdir()) == []


#: A run of 8 steps on made-up symbols.
TINY = (
    *("logger=csv", "trainer=cpu", "data=reverse", "data.examples=160", "data.batch_size=20"),
    *("data.evaluation_examples=20", "model.d_model=16", "trainer.max_epochs=1"),
)
#: A sweep of four.
SWEEP = ("-m", *TINY, "seed=0,1,2,3", "hydra.sweep.dir=sweep")


def launched(command: Command, *arguments: str) -> dict[str, list[str]]:
    """The lines of what a command would launch, with their marks, by what they are about."""
    answer = command("doctor", *arguments)
    assert (answer.code, answer.err) == (0, "")
    lines: dict[str, list[str]] = {}
    about = ""
    for line in answer.out.splitlines():
        about = line[2:16].rstrip() or about
        lines.setdefault(about, []).append((line[:2] + line[16:]).strip())
    del lines["disk"]  # on which others write meanwhile
    return lines


def test_one_run_is_described_and_not_begun(command: Command, tmp_path: Path) -> None:
    lines = launched(command, "train", *TINY, "logger=wandb", "hydra.run.dir=there/run")
    assert lines["one run"] == ["new"]
    assert lines["it has"] == ["1 process, on the CPU with 1 thread"]
    assert lines["trains for"] == ["8 steps (1 epoch of 8 steps)"]
    assert lines["directory"] == [str(tmp_path / "there" / "run")]
    (logged,) = lines["W&B"]
    assert logged.startswith("offline: nobody is logged in to https://")
    assert logged.endswith("project attention-lab, group there")
    assert lines["signals"][0].startswith("SIGUSR1, SIGUSR2, SIGTERM: a run saves")
    assert list(tmp_path.iterdir()) == []


def test_the_word_train_may_be_left_out(command: Command) -> None:
    arguments = [*TINY, "hydra.run.dir=run"]
    assert command("doctor", *arguments) == command("doctor", "train", *arguments)


def test_several_processes_of_a_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    monkeypatch.setattr("attention_lab.training.distributed.launch.cores", lambda: 8)
    lines = launched(command, *TINY, "trainer=ddp_cpu", "trainer.devices=2")
    assert lines["it has"] == ["2 processes, each on the CPU with 3 threads, by ddp"]
    assert lines["in total"] == ["2 processes, 6 CPU cores"]
    assert lines["trains for"] == ["4 steps (1 epoch of 4 steps)"]
    for name, value in (("RANK", 0), ("WORLD_SIZE", 4), ("LOCAL_RANK", 0)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    lines = launched(command, *TINY, "trainer=ddp_cpu", "trainer.num_nodes=2")
    assert lines["launched by"] == ["torchrun or srun, as 4 processes"]
    assert lines["it has"] == [
        "4 processes (2 on each of 2 nodes), each on the CPU with 6 threads, by ddp"
    ]
    monkeypatch.setenv("RANK", "1")
    assert command("doctor", *TINY, "trainer=ddp_cpu", "trainer.num_nodes=2") == (0, "", "")


def test_a_run_in_a_slurm_job_requeues_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "requeues SLURM job 7; " in launched(command, *TINY)["signals"][0]


def test_a_sweep_is_described_as_it_is_run(command: Command, tmp_path: Path) -> None:
    sweep = ["-m", *TINY, "attention=general,none", "hydra.sweep.dir=sweep"]
    lines = launched(command, *sweep)
    assert list(tmp_path.iterdir()) == []
    total, *jobs = lines["jobs"]
    assert total == "2: 2 new"
    names = ["attention=general", "attention=none"]
    assert [job.split()[:2] for job in jobs] == [["new", name] for name in names]
    assert lines["all with"] == [" ".join(TINY[1:])]
    assert lines["sweep"] == [str(tmp_path / "sweep")]
    directories = [job.split("  in ")[1] for job in jobs]
    answer = command("train", *sweep)
    assert answer.code == 0, answer.err
    runs = [tmp_path / "sweep" / directory for directory in directories]
    assert sorted(tmp_path.glob("sweep/*/result.json")) == [run / "result.json" for run in runs]
    files = sorted(tmp_path.rglob("*"))
    lines = launched(command, *sweep)
    assert lines["jobs"] == [
        "2: 2 finished",
        f"finished  {names[0]}  in {directories[0]}",
        f"finished  {names[1]}  in {directories[1]}",
    ]
    assert "launcher" not in lines
    for run, state in zip(runs, ("failed", "running"), strict=True):
        status = json.loads((run / "status.json").read_text())
        (run / "status.json").write_text(json.dumps(status | {"status": state}))
    lines = launched(command, *sweep, "hydra.launcher.parallel=2")
    assert lines["jobs"][0] == "2: 1 failed, 1 goes on"
    assert lines["launcher"] == ["isolated: on this machine, 1 at a time"]
    lines = launched(command, *sweep, "sweep.retry=failed", "hydra.launcher.parallel=2")
    assert lines["jobs"][0] == "2: 1 again, 1 goes on"
    assert lines["launcher"] == ["isolated: on this machine, 2 at a time"]
    assert sorted(tmp_path.rglob("*")) == files


def changed(command: Command, before: dict[str, list[str]], *arguments: str) -> set[str]:
    """What lines are about that a command has, and another had not."""
    after = launched(command, *arguments)
    return {about for about in after if after[about] != before.get(about)}


def test_each_line_follows_the_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sweeps.scheduler", "training.launch", "cli.described"):
        monkeypatch.setattr(f"attention_lab.{module}.cores", lambda: 4)
    before = launched(command, *SWEEP)
    assert before["launcher"] == ["isolated: on this machine, 4 at a time"]
    for override, about in {
        "hydra.launcher.parallel=3": {"launcher", "in total"},
        "hydra.launcher.threads=9": {"launcher", "each job", "in total"},
        "hydra.launcher.time_limit=5": {"time limit"},
        "hydra.launcher.retries=2": {"time limit"},
        "hydra.sweep.dir=other": {"sweep"},
        "logger=wandb": {"W&B"},
        "seed=4,5,6,7": {"jobs"},
        "trainer=ddp_cpu": {"jobs", "all with", "launcher", "each job"},
    }.items():
        assert changed(command, before, *SWEEP, override) == about, override


def test_more_threads_than_cores_at_a_time_are_marked(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.cli.launch_summary.cores", lambda: 4)
    arguments = [*SWEEP, "hydra.launcher.threads=2", "hydra.launcher.parallel=3"]
    assert launched(command, *arguments)["in total"] == [
        "! 3 processes, 6 CPU cores at a time; there are 4: hydra.launcher.parallel=2"
    ]


def test_only_the_first_ten_jobs_are_shown(command: Command) -> None:
    lines = launched(command, "-m", *TINY, "seed=range(12)")["jobs"]
    assert (lines[0], lines[10].split()[1], lines[11:]) == ("12: 12 new", "seed=9", ["and 2 more"])


def test_what_is_tuned_is_not_known_before(command: Command, tmp_path: Path) -> None:
    lines = launched(command, *SWEEP, "sweep.tune=lr", "sweep.grid=[1e-3,2e-3,4e-3]")
    assert lines["tuning"][0] == "3: 3 new"
    assert "optimizer.lr=0.002,seed=1000  in tuning/optimizer.lr=0.002," in lines["tuning"][2]
    assert lines["then"] == ["4 jobs, with the settings that the tuning chooses"]
    assert list(tmp_path.iterdir()) == []


def test_of_a_search_the_first_trials_are_known(command: Command, tmp_path: Path) -> None:
    search = ["hydra/sweeper=search", "hydra.sweeper.n_trials=7", "hydra.sweeper.n_jobs=3"]
    storage = "hydra.sweeper.storage=sqlite:///trials.db"
    lines = launched(command, "-m", *TINY, *search, storage)
    assert lines["search"][:2] == [
        "7 trials, chosen as it goes: TPESampler, 3 at a time",
        "optimizer.lr=tag(log, interval(1e-4, 1e-2))",
    ]
    assert lines["first"][0] == "3: 3 new"
    assert list(tmp_path.iterdir()) == []


SLURM = (
    *(*SWEEP, "hydra/launcher=slurm", "trainer.devices=4", "trainer.num_nodes=2"),
    *("hydra.launcher.time=90", "hydra.launcher.cpus_per_task=3"),
)


@pytest.fixture
def asked(program: Program, tmp_path: Path) -> Path:
    """A file with what an sbatch was asked that has nothing against it."""
    pytest.importorskip("submitit")
    log = tmp_path.parent / f"{tmp_path.name}-asked"
    program("sbatch", f'echo "$@" >> {log}')
    program("scontrol", "echo 'MaxArraySize            = 1001'")
    return log


def test_jobs_of_slurm_are_not_submitted(command: Command, tmp_path: Path, asked: Path) -> None:
    lines = launched(command, *SLURM, "hydra.launcher.at_once=3")
    assert lines["launcher"] == ["slurm: 1 array of jobs, 3 at a time"]
    assert lines["each job"] == [
        "8 processes (4 on each of 2 nodes), each on the CPU with 3 threads, by ddp"
    ]
    assert lines["asks for"] == ["--time=90 --cpus-per-task=3 --nodes=2 --ntasks-per-node=4"]
    assert lines["in total"] == ["24 processes, 72 CPU cores at a time, if there are as many"]
    assert lines["time limit"] == ["90 minutes; 60 s before it a run is told to save"]
    assert "SIGUSR2: a run saves between two steps and is queued again; " in lines["signals"][0]
    assert asked.read_text().count("--test-only") == len(asked.read_text().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("asked")
def test_each_line_about_slurm_follows_the_command(command: Command) -> None:
    before = launched(command, *SLURM)
    for override, about in {
        "hydra.launcher.at_once=2": {"launcher", "in total"},
        "hydra.launcher.cpus_per_task=null": {"each job", "asks for", "in total"},
        "trainer.num_nodes=3": {"jobs", "all with", "each job", "asks for", "in total"},
        "trainer.strategy=fsdp": {"jobs", "all with", "each job"},
        "hydra.launcher.gpus=4": {"each job", "asks for", "in total"},
        "hydra.launcher.time=null": {"asks for", "time limit"},
        "hydra.launcher.signal=90": {"time limit"},
        "hydra.launcher.requeue=false": {"signals"},
        "hydra.launcher.wait=false": {"this command"},
    }.items():
        assert changed(command, before, *SLURM, override) == about, override


WRONG = [
    [*TINY, "attention=aditive"],
    [*TINY, "attention.head=4"],
    [*TINY, "trainer.devices=9999"],
    [*TINY, "trainer.num_nodes=2"],
    [*TINY, "attention.heads=3"],
    [*TINY, "hydra/launcher=slurm"],
    [*TINY, "seed=0,1"],
    [*SWEEP, "hydra/launcher=slurm"],
    [*SWEEP, "hydra.launcher.parallel=0"],
    [*SWEEP, "trainer.devices=9999"],
    [*SWEEP, "sweep.retry=finished"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_what_is_wrong_is_said_as_train_says_it(
    command: Command, tmp_path: Path, arguments: list[str]
) -> None:
    answer = command("doctor", *arguments)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []
    assert answer == command("train", *arguments)


def test_a_directory_that_is_taken_is_refused(command: Command, tmp_path: Path) -> None:
    one = [*TINY, "hydra.run.dir=run"]
    assert command("train", *one).code == 0
    (tmp_path / "sweep").mkdir()
    lock = Lock(tmp_path / "sweep")
    lock.sign()
    for arguments in (one, [*one, "seed=5"], list(SWEEP)):
        answer = command("doctor", *arguments)
        assert (answer.code, answer.out) == (2, "")
        assert answer == command("train", *arguments)
    lock.release()
    status = tmp_path / "run" / "status.json"
    status.write_text(status.read_text().replace('"finished"', '"preempted"', 1))
    assert launched(command, *one)["one run"] == ["goes on from its latest checkpoint"]


def test_another_launcher_is_not_started(command: Command, tmp_path: Path) -> None:
    answer = command("doctor", *SWEEP, "hydra/launcher=basic")
    assert answer.err.startswith("attention-lab: hydra/launcher=basic: doctor knows isolated, ")
    assert (answer.code, answer.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_what_would_be_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").touch()
    for directory in (["hydra.run.dir=there/run"], ["-m", "hydra.sweep.dir=there/sweep"]):
        answer = command("doctor", *TINY, *directory)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("attention-lab: cannot write the run: ")
    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    answer = command("doctor", *TINY)
    assert answer.code == 1
    assert answer.out.splitlines()[-1].startswith("✗ disk          0.0 GiB free for runs; ")


def test_only_train_launches_anything(command: Command) -> None:
    message = "attention-lab: doctor: report launches nothing; only train does\n"
    assert command("doctor", "report", "sweep") == (2, "", message)
