"""`attention-lab train … --dry-run`: what a command would launch."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest

from attention_lab.cli import cost_lines, doctor_checks
from attention_lab.cli.throughput import throughput_of
from attention_lab.config.resolve import RunConfig
from attention_lab.tracking.lock import Lock
from attention_lab.tracking.record_files import json_text
from attention_lab.training.estimate import Estimate
from tests.cli.conftest import Command, Program, after_checking
from tests.conftest import FinishedRun
from tests.tracking.servers import refusing, silent

pytestmark = pytest.mark.usefixtures("bare")


#: A run of 8 steps on made-up symbols.
TINY = (
    *("logger=csv", "trainer=cpu", "data=reverse", "data.examples=160", "data.batch_size=20"),
    *("data.evaluation_examples=20", "data.lengths=[2,4]", "trainer.max_epochs=1"),
    *("model.d_model=16", "model.num_encoder_layers=1", "model.num_decoder_layers=1"),
)
#: A sweep of four.
SWEEP = ("-m", *TINY, "seed=0,1,2,3", "hydra.sweep.dir=sweep")


@pytest.fixture(scope="module", autouse=True)
def _estimated_once() -> Iterator[None]:
    """Estimates configs of the same costs once in the whole module, as a sweep does."""
    estimates: dict[str, Estimate] = {}

    def cached(config: RunConfig) -> Estimate:
        key = cost_lines._costs_of(config)
        if key not in estimates:
            estimates[key] = estimated(config)
        return estimates[key]

    estimated = cost_lines._estimate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost_lines, "_estimate", cached)
        yield


def launched(command: Command, *arguments: str) -> dict[str, list[str]]:
    """The lines of what a command would launch, with their marks, by what they are about."""
    answer = command("train", *arguments, "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    lines: dict[str, list[str]] = {}
    about = ""
    for line in answer.out.splitlines():
        about = line[2:16].rstrip() or about
        lines.setdefault(about, []).append((line[:2] + line[16:]).strip())
    del lines["disk"]  # on which others write meanwhile
    return lines


def test_a_single_run_is_described_and_not_started(command: Command, tmp_path: Path) -> None:
    lines = launched(command, *TINY, "logger=wandb", "hydra.run.dir=there/run")
    assert lines["run"] == ["new"]
    assert lines["processes"] == ["1 process, on the CPU with 1 thread"]
    assert lines["training"] == ["8 steps (1 epoch of 8 steps)"]
    assert lines["directory"] == [str(tmp_path / "there" / "run")]
    (logged,) = lines["W&B"]
    assert logged.startswith("offline: not logged in to https://")
    assert logged.endswith("project attention-lab, group there")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("server", [silent, refusing])
def test_runs_are_logged_offline_if_the_server_refuses_them(
    server: Callable[[], AbstractContextManager[str]],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("attention_lab.tracking.wandb_logger.CHECK_TIMEOUT", 1)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        (logged,) = launched(command, *TINY, "logger=wandb", "hydra.run.dir=there/run")["W&B"]
    assert logged.startswith("offline: ")
    assert list(tmp_path.iterdir()) == []


def test_the_processes_of_a_run_are_shown(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    monkeypatch.setattr("attention_lab.training.distributed.launch.cores", lambda: 8)
    lines = launched(command, *TINY, "trainer=ddp_cpu", "trainer.devices=2")
    assert lines["processes"] == ["2 processes, each on the CPU with 3 threads, ddp"]
    assert lines["in total"] == ["2 processes, 6 CPU cores"]
    assert lines["training"] == ["4 steps (1 epoch of 4 steps)"]
    for name, value in (("RANK", 0), ("WORLD_SIZE", 4), ("LOCAL_RANK", 0)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    lines = launched(command, *TINY, "trainer=ddp_cpu", "trainer.num_nodes=2")
    assert lines["launched by"] == ["torchrun or srun, as 4 processes"]
    assert lines["processes"] == [
        "4 processes (2 on each of 2 nodes), each on the CPU with 6 threads, ddp"
    ]
    monkeypatch.setenv("RANK", "1")
    assert command("train", *TINY, "trainer=ddp_cpu", "trainer.num_nodes=2", "--dry-run") == (
        0,
        "",
        "",
    )


def test_a_dry_run_and_a_sweep_have_the_same_jobs(command: Command, tmp_path: Path) -> None:
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
    assert lines["jobs"][0] == "2: 1 failed, 1 resumes"
    assert lines["launcher"] == ["isolated: on this machine, 1 at a time"]
    lines = launched(command, *sweep, "sweep.retry=failed", "hydra.launcher.parallel=2")
    assert lines["jobs"][0] == "2: 1 again, 1 resumes"
    assert lines["launcher"] == ["isolated: on this machine, 2 at a time"]
    assert sorted(tmp_path.rglob("*")) == files


def test_costs_are_estimated_and_time_is_from_a_given_throughput(
    command: Command, tmp_path: Path
) -> None:
    lines = launched(command, *TINY)
    (memory,), (parameters,) = lines["memory"], lines["parameters"]
    assert int(parameters.replace(",", "")) > 1000
    assert all(each in memory for each in ("weights", "gradients", "optimizer", "activations"))
    assert lines["compute"][0].endswith("FLOPs a step")
    assert lines["tokens"][0].endswith(" k, without padding")
    assert lines["time"][0].startswith("unknown: add --tokens-per-second N")
    (time,) = launched(command, *TINY, "--tokens-per-second=0.1")["time"]
    assert time.endswith("h of training at 0.1 tokens/s, without validation")
    (time,) = launched(command, *SWEEP, "--tokens-per-second", "1")["time"]
    assert "at a time) at 1 tokens/s" in time
    assert list(tmp_path.iterdir()) == []


def test_the_throughput_of_a_finished_run_is_used(
    command: Command, digits_run: FinishedRun, tmp_path: Path
) -> None:
    run = digits_run.directory
    arguments = ("train", "--from", str(run), "hydra.run.dir=again", "--dry-run")
    answer = command(*arguments)
    assert f" tokens/s as {run}, without validation" in answer.out, answer
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("recorded", "is_used"), [(5.0, True), (0.0, False), (math.nan, False)])
def test_a_recorded_throughput_is_used_if_it_is_above_0(
    recorded: float, is_used: bool, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text(json_text({"tokens_per_second": recorded}))
    throughput, _ = throughput_of(["--from", str(tmp_path)])
    assert (throughput is not None) is is_used


@pytest.mark.parametrize("given", ["", "many", "0", "-1", "nan", "inf"])
def test_an_invalid_throughput_is_refused(given: str, command: Command) -> None:
    answer = command("train", *TINY, "--dry-run", f"--tokens-per-second={given}")
    problem = f"--tokens-per-second: must be a number above 0, got {given!r}"
    assert answer == (2, "", f"attention-lab: {problem}\n")


def test_a_throughput_needs_a_dry_run(command: Command) -> None:
    answer = command("train", *TINY, "--tokens-per-second=1")
    assert (answer.code, answer.out) == (2, "")
    assert "--tokens-per-second=1: no such flag" in answer.err


def test_unknown_costs_are_said_to_be_unknown(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("reads values\nand more")

    for name in ("estimate", "_estimate"):
        monkeypatch.setattr(cost_lines, name, refuse)
    reason = "unknown: the model cannot run on tensors without values (reads values)"
    for arguments in (TINY, SWEEP):
        assert launched(command, *arguments)["costs"] == [reason]


def changed(command: Command, before: dict[str, list[str]], *arguments: str) -> set[str]:
    """What lines are about that a command has, and another had not."""
    after = launched(command, *arguments)
    return {about for about in after if after[about] != before.get(about)}


def test_each_line_depends_on_the_overrides(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sweeps.local_executor", "training.distributed.launch", "cli.launch_summary"):
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
        "trainer=ddp_cpu": {"jobs", "all with", "launcher", "each job", "training"},
        "trainer.max_steps=3": {"jobs", "all with", "training", "tokens", "compute"},
    }.items():
        assert changed(command, before, *SWEEP, override) == about, override


def test_more_threads_than_cores_at_a_time_are_marked(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.cli.launch_summary.cores", lambda: 4)
    arguments = [*SWEEP, "hydra.launcher.threads=2", "hydra.launcher.parallel=3"]
    assert launched(command, *arguments)["in total"] == [
        "! 3 processes, 6 CPU cores at a time; only 4 available: use hydra.launcher.parallel=2"
    ]


def test_only_the_first_ten_jobs_are_shown(command: Command) -> None:
    lines = launched(command, "-m", *TINY, "seed=range(12)")["jobs"]
    assert (lines[0], lines[10].split()[1], lines[11:]) == ("12: 12 new", "seed=9", ["and 2 more"])


def test_jobs_after_a_tuning_are_only_counted(command: Command, tmp_path: Path) -> None:
    lines = launched(command, *SWEEP, "sweep.tune=lr", "sweep.grid=[1e-3,2e-3,4e-3]")
    assert lines["tuning"][0] == "3: 3 new"
    assert "optimizer.lr=0.002,seed=1000  in tuning/optimizer.lr=0.002," in lines["tuning"][2]
    assert lines["then"] == ["4 jobs, with the settings that the tuning chooses"]
    assert list(tmp_path.iterdir()) == []


def test_the_first_trials_of_a_search_are_shown(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("optuna", "4.5")
    search = ["hydra/sweeper=search", "hydra.sweeper.n_trials=7", "hydra.sweeper.n_jobs=3"]
    storage = "hydra.sweeper.storage=sqlite:///trials.db"
    lines = launched(command, "-m", *TINY, *search, storage)
    assert lines["search"][:2] == [
        "7 trials, 3 at a time, drawn by TPESampler",
        "optimizer.lr=tag(log, interval(1e-4, 1e-2))",
    ]
    assert lines["first trials"][0] == "3: 3 new"
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


def test_slurm_jobs_are_not_submitted(command: Command, tmp_path: Path, asked: Path) -> None:
    lines = launched(command, *SLURM, "hydra.launcher.at_once=3")
    assert lines["launcher"] == ["slurm: 1 job array, 3 at a time"]
    assert lines["each job"] == [
        "8 processes (4 on each of 2 nodes), each on the CPU with 3 threads, ddp"
    ]
    assert lines["sbatch"] == ["--time=90 --cpus-per-task=3 --nodes=2 --ntasks-per-node=4"]
    assert lines["in total"] == ["up to 24 processes, 72 CPU cores at a time"]
    assert lines["time limit"] == ["90 minutes; a run saves 60 s before it and is requeued"]
    assert asked.read_text().count("--test-only") == len(asked.read_text().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("asked")
def test_each_line_about_slurm_depends_on_the_options(command: Command) -> None:
    before = launched(command, *SLURM)
    for override, about in {
        "hydra.launcher.at_once=2": {"launcher", "in total"},
        "hydra.launcher.cpus_per_task=null": {"each job", "sbatch", "in total"},
        "trainer.num_nodes=3": {
            *("jobs", "all with", "each job", "sbatch", "in total", "memory"),
        },
        "trainer.strategy=fsdp": {"jobs", "all with", "each job", "memory"},
        "hydra.launcher.gpus=4": {"each job", "sbatch", "in total"},
        "hydra.launcher.time=null": {"sbatch", "time limit"},
        "hydra.launcher.signal=90": {"time limit"},
        "hydra.launcher.requeue=false": {"time limit"},
        "hydra.launcher.wait=false": {"this command"},
    }.items():
        assert changed(command, before, *SLURM, override) == about, override


WRONG = [
    [*TINY, "attention=aditive"],
    [*TINY, "attention.head=4"],
    [*TINY, "trainer.devices=9999"],
    [*TINY, "trainer.num_nodes=2"],
    [*TINY, "attention.num_heads=3"],
    [*TINY, "hydra/launcher=slurm"],
    [*TINY, "seed=0,1"],
    [*SWEEP, "hydra/launcher=slurm"],
    [*SWEEP, "hydra.launcher.parallel=0"],
    [*SWEEP, "trainer.devices=9999"],
    [*SWEEP, "sweep.retry=finished"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_errors_are_those_of_train(command: Command, tmp_path: Path, arguments: list[str]) -> None:
    answer = command("train", "--dry-run", *arguments)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert after_checking(answer.out) == ""
    assert list(tmp_path.iterdir()) == []
    assert answer == command("train", *arguments)


def test_an_occupied_directory_is_refused(command: Command, tmp_path: Path) -> None:
    one = [*TINY, "hydra.run.dir=run"]
    assert command("train", *one).code == 0
    (tmp_path / "sweep").mkdir()
    lock = Lock(tmp_path / "sweep")
    lock.write_owner()
    for arguments in (one, [*one, "seed=5"], list(SWEEP)):
        answer = command("train", "--dry-run", *arguments)
        assert (answer.code, after_checking(answer.out)) == (2, "")
        assert answer == command("train", *arguments)
    lock.release()
    status = tmp_path / "run" / "status.json"
    status.write_text(status.read_text().replace('"finished"', '"preempted"', 1))
    assert launched(command, *one)["run"] == ["resumes from its latest checkpoint"]


def test_hydras_basic_launcher_is_refused(command: Command, tmp_path: Path) -> None:
    answer = command("train", "--dry-run", *SWEEP, "hydra/launcher=basic")
    assert answer.err.startswith(
        "attention-lab: hydra/launcher=basic: not supported by --dry-run; "
    )
    assert (answer.code, answer.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_or_unwritable_directory_is_named(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").touch()
    for directory in (["hydra.run.dir=there/run"], ["-m", "hydra.sweep.dir=there/sweep"]):
        answer = command("train", "--dry-run", *TINY, *directory)
        assert (answer.code, after_checking(answer.out)) == (1, "")
        assert answer.err.startswith("attention-lab: cannot write the run: ")
    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    answer = command("train", "--dry-run", *TINY)
    assert answer.code == 1
    assert answer.out.splitlines()[-1].startswith("✗ disk          0.0 GiB free for runs; ")
