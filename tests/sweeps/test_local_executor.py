"""The resources of jobs, retries, and a sweep on a full disk."""

import errno
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.sweeps import local_executor
from attention_lab.sweeps.forkserver import exit_reason
from attention_lab.sweeps.local_executor import Resources, check_here, run_jobs
from attention_lab.tracking.run_directory import RunRecord
from attention_lab.tracking.run_status import RunStatus
from tests.runs import unchecked


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("gpus")
def test_jobs_do_not_share_gpus() -> None:
    assert Resources().slots(on_gpus=True) == ["0", "1", "2", "3", "4"]
    assert Resources(gpus_per_job=2).slots(on_gpus=True) == ["0,1", "2,3"]
    assert set(Resources().slots(on_gpus=False)) == {None}
    assert Resources(gpus_per_job=2, parallel=1).slots(on_gpus=True) == ["0,1"]
    assert Resources().slots(on_gpus=True, devices=2) == ["0,1", "2,3"]
    # More jobs than that share them evenly.
    assert Resources(gpus_per_job=2, parallel=4).slots(on_gpus=True) == ["0,1", "2,3", "0,1", "2,3"]
    with pytest.raises(ConfigError, match=r"gpus_per_job=6: there are 5 GPUs"):
        Resources(gpus_per_job=6).slots(on_gpus=True)


@pytest.mark.usefixtures("gpus")
def test_gpus_keep_the_names_that_a_cluster_gave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab")
    assert Resources().slots(on_gpus=True) == ["3", "GPU-ab"]


@pytest.mark.usefixtures("gpus")
def test_jobs_on_the_cpu_ask_for_no_gpus(tmp_path: Path) -> None:
    def job(accelerator: str, devices: int) -> RunSpec:
        trainer = {"accelerator": accelerator, "devices": devices}
        return unchecked({"trainer": trainer}, tmp_path)

    assert Resources().slots_of([job("gpu", 1), job("cpu", 9)]) == ["0", "1", "2", "3", "4"]
    assert Resources().slots_of([job("gpu", 2), job("cpu", 9)]) == ["0,1", "2,3"]


def test_a_finished_sweep_has_no_job_to_check() -> None:
    check_here([], Resources())


def test_cpu_jobs_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(local_executor, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Resources().slots(on_gpus=True) == [None] * 8
    assert Resources(threads=3).slots(on_gpus=True) == [None] * 2
    assert Resources().slots(on_gpus=False, devices=2) == [None] * 4
    assert Resources(threads=3).slots(on_gpus=False, devices=2) == [None]
    assert Resources(threads=99).slots(on_gpus=True) == [None]
    assert Resources(parallel=3).slots(on_gpus=True) == [None] * 3
    assert Resources().threads_of_each(3) == 2
    assert Resources().threads_of_each(9) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert Resources().slots(on_gpus=True) == [None] * 2
    assert Resources().threads_of_each(3) == 4
    assert Resources(threads=1).threads_of_each(3) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *({"parallel": 0}, {"threads": 0}, {"gpus_per_job": 0}, {"time_limit": 0}, {"retries": -1}),
        *({"parallel": "two"}, {"threads": 1.5}, {"retries": None}, {"time_limit": "1h"}),
    ],
)
def test_resources_out_of_range_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"hydra.launcher.{next(iter(wrong))}: input should be "):
        Resources(**wrong)  # type: ignore[arg-type]


class Silent:
    """A display that shows nothing."""

    def __init__(self) -> None:
        self.directories: list[Path] = []
        self.told: list[tuple[str, str]] = []

    def refresh(self) -> None:
        pass

    def ended(self, directory: Path, found: RunStatus) -> None:
        self.told.append((directory.name, found.state))


def jobs_in(sweep: Path, names: str) -> list[RunSpec]:
    jobs = [
        RunSpec(
            RunConfig({"seed": 0, "trainer": {}, "name": name}), sweep / name, (), "sweep", [name]
        )
        for name in names
    ]
    for job in jobs:
        job.directory.mkdir()
    return jobs


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Starts jobs as forks of this process that fail at once; counts their starts."""
    import multiprocessing

    started: Counter[str] = Counter()

    def fail(job: RunSpec) -> None:
        RunRecord(job).end(RuntimeError("it always does"))

    def starter(threads: int) -> object:
        def start(job: RunSpec, gpus: str | None) -> BaseProcess:
            started[job.name] += 1
            process = multiprocessing.get_context("fork").Process(target=fail, args=(job,))
            process.start()
            return process

        return start

    monkeypatch.setattr(local_executor, "job_starter", starter)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return started


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_failed_job_is_started_again_as_often_as_retries_says(
    forked: Counter[str], tmp_path: Path
) -> None:
    display = Silent()
    run_jobs(jobs_in(tmp_path, "ab"), Resources(parallel=2, retries=2), display)
    assert forked == {"a": 3, "b": 3}
    assert sorted(display.told) == [("a", "failed"), ("b", "failed")]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_full_disk_stops_the_sweep(
    forked: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_executor.os, "fsync", full)
    with pytest.raises(OSError, match="no room left on the disk; the same command resumes"):
        run_jobs(jobs_in(tmp_path, "abc"), Resources(parallel=1), Silent())
    assert forked == {"a": 1}
    assert not list(tmp_path.glob("*/.room"))


def test_the_reason_of_an_unexpected_exit_is_recorded(tmp_path: Path) -> None:
    class Dead(BaseProcess):
        def __init__(self, code: int) -> None:
            self._code = code

        @property
        def exitcode(self) -> int:  # type: ignore[override]
            return self._code

        def __del__(self) -> None:
            pass

    log = tmp_path / "log.txt"
    assert exit_reason(Dead(-11), log) == "killed by SIGSEGV"
    assert exit_reason(Dead(-9), log) == "killed by SIGKILL (out of memory?)"
    log.write_text("Traceback\nValueError: no\n\n")
    assert exit_reason(Dead(1), log) == "exit code 1: ValueError: no"
