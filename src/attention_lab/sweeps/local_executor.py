"""Runs the jobs of a sweep on this machine, several at a time."""

import errno
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunSpec
from attention_lab.sweeps.forkserver import Start, exit_reason, job_starter
from attention_lab.sweeps.jobs import build_jobs
from attention_lab.sweeps.plugin_options import check_types
from attention_lab.sweeps.watchers import Watcher
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_directory import DISK_FULL, record_failure
from attention_lab.tracking.run_status import ENDED, RunStatus, read_status
from attention_lab.training.distributed.launch import check_devices
from attention_lab.training.distributed.workers import GRACE, cores, reserve_open_files, stop

POLL_SECONDS = 0.2
#: Bytes that must be free on the disk for the sweep to continue.
ROOM = 1 << 20


@dataclass(frozen=True)
class Resources:
    """The options of ``hydra/launcher=isolated``: the resources of jobs.

    Raises:
        ConfigError: if a value is invalid.
    """

    #: Jobs at a time; None means one for each GPU or, without GPUs, for each CPU core.
    parallel: PositiveInt | None = None
    #: CPU threads of each job; None means OMP_NUM_THREADS, else jobs share the cores.
    threads: PositiveInt | None = None
    #: GPUs of each job, if there are any.
    gpus_per_job: PositiveInt = 1
    #: Minutes that a job may take; None means no limit.
    time_limit: PositiveFloat | None = None
    #: How often a failed job is started again.
    retries: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_types(self)

    def slots_of(self, jobs: Sequence[RunSpec]) -> list[str | None]:
        """:meth:`slots` for these jobs."""
        trainers = [job.config.values["trainer"] for job in jobs]
        for_gpus = [trainer for trainer in trainers if trainer.get("accelerator") != "cpu"]
        sharing = for_gpus if for_gpus and _gpus() else trainers
        return self.slots(bool(for_gpus), max(trainer.get("devices", 1) for trainer in sharing))

    def slots(self, on_gpus: bool, devices: int = 1) -> list[str | None]:
        """One entry for each job at a time: its CUDA_VISIBLE_DEVICES, or None without GPUs.

        Args:
            on_gpus: whether any job uses a GPU.
            devices: the most devices of a job.

        Raises:
            ConfigError: if a job needs more GPUs than there are.
        """
        gpus = _gpus() if on_gpus else []
        if not gpus:
            at_once = cores() // (self.threads_of_each(cores()) * devices)
            return [None] * (self.parallel or max(1, at_once))
        if self.gpus_per_job > len(gpus):
            raise ConfigError(
                f"hydra.launcher.gpus_per_job={self.gpus_per_job}: there are {len(gpus)} GPUs"
            )
        each = max(self.gpus_per_job, devices)
        sets = [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
        # If there are more jobs than sets of GPUs, several jobs share a set.
        return [sets[i % len(sets)] for i in range(self.parallel or len(sets))]

    def threads_of_each(self, jobs: int) -> int:
        """CPU threads of each job if so many run at a time."""
        usual = os.environ.get("OMP_NUM_THREADS", "")
        shared = int(usual) if usual.isdecimal() else cores() // jobs
        return max(1, self.threads or shared)


def _gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


@dataclass
class _Running:
    job: RunSpec
    process: BaseProcess
    slot: str | None
    started: float
    #: The content of the run's status.json at that time.
    earlier: Mapping[str, Any]
    #: Why it was ended; None if it was not.
    error: str | None = None


def check_here(jobs: Sequence[RunSpec], resources: Resources) -> None:
    """Raise ConfigError, naming the job, if one cannot work on this machine."""
    if not jobs:  # all have ended
        return
    build_jobs(jobs)
    devices = [check_devices(job.config)[0] for job in jobs]
    at_once = min(len(jobs), len(resources.slots_of(jobs)))
    reserve_open_files(max(at_once, *devices))


def run_jobs(jobs: Sequence[RunSpec], resources: Resources, watcher: Watcher) -> None:
    """Run jobs until all have ended; their results are in their directories.

    If another process has locked a job, this waits for it.

    Args:
        jobs: the runs.
        resources: the resources that they may use.
        watcher: follows them; if it raises an error, the jobs are stopped.

    Raises:
        OSError: if the disk is full; jobs can resume when there is room.
    """
    slots = resources.slots_of(jobs)
    start = job_starter(resources.threads_of_each(len(slots)))
    waiting, running, tries = list(jobs), list[_Running](), Counter[Path]()
    passed_over = set[Path]()
    try:
        while waiting or running:
            _start_some(waiting, running, slots, start, tries, passed_over)
            wait([each.process.sentinel for each in running], POLL_SECONDS)
            if not running:  # other processes have locked all that is left
                time.sleep(POLL_SECONDS)
            watcher.refresh()
            for each in [each for each in running if _has_ended(each, resources.time_limit)]:
                running.remove(each)
                found = _final_status(each)
                if found.state != "finished":
                    _check_room(each.job.directory, found)
                if found.state == "failed" and tries[each.job.directory] <= resources.retries:
                    waiting.append(each.job)
                else:
                    watcher.ended(each.job.directory, found)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            for each in running:
                each.process.terminate()
        stop([each.process for each in running], 1.5 * GRACE)
        raise


def _start_some(
    waiting: list[RunSpec],
    running: list[_Running],
    slots: Sequence[str | None],
    start: Start,
    tries: Counter[Path],
    passed_over: set[Path],
) -> None:
    """Start jobs in the free slots, except those that another process has locked or has run."""
    free = Counter(slots) - Counter(each.slot for each in running)
    for slot in free.elements():
        job = _next_unlocked(waiting, passed_over)
        if job is None:
            return
        waiting.remove(job)
        if job.directory not in passed_over or read_status(job.directory).state not in ENDED:
            tries[job.directory] += 1
            earlier = read_status(job.directory).record
            running.append(_Running(job, start(job, slot), slot, time.monotonic(), earlier))


def _next_unlocked(waiting: Sequence[RunSpec], passed_over: set[Path]) -> RunSpec | None:
    """The first job that no process has locked; the locked ones before it join a set."""
    for job in waiting:
        if not is_locked(job.directory):
            return job
        passed_over.add(job.directory)
    return None


def _has_ended(each: _Running, minutes: float | None) -> bool:
    """Whether a job's process has exited; it is killed at its time limit."""
    if not each.process.is_alive():
        return True
    if minutes is None or time.monotonic() - each.started < 60 * minutes:
        return False
    each.process.kill()
    each.process.join()
    each.error = f"took longer than {minutes:g} minutes (hydra.launcher.time_limit)"
    return True


def _final_status(each: _Running) -> RunStatus:
    """The status of an ended job; records an exit that the job did not record."""
    directory, job = each.job.directory, each.job
    found = read_status(directory)
    # A record that an earlier process left does not describe this exit.
    if found.record != each.earlier and found.record["status"] != "running":
        return found
    error = each.error or exit_reason(each.process, directory / "log.txt")
    with suppress(OSError):  # disk full: the run then counts as interrupted
        # The ranks of a run may outlive the process that started them, by GRACE seconds.
        record_failure(job, error, patience=1.5 * GRACE)
    return read_status(directory)


def _check_room(directory: Path, found: RunStatus) -> None:
    """Raise OSError if the disk is full: the next jobs would fail, too."""
    probe = directory / ".room"
    try:
        if found.error == DISK_FULL:  # although the failed run may have freed some space
            raise OSError(errno.ENOSPC, DISK_FULL)
        with probe.open("wb") as file:
            file.write(b"\1" * ROOM)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        resume = "the same command resumes the sweep when there is room"
        raise OSError(error.errno, f"{DISK_FULL}; {resume}", str(directory.parent)) from error
    finally:
        probe.unlink(missing_ok=True)
