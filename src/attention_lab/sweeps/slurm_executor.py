"""Running the jobs of a sweep as SLURM jobs, which do not need the command that submits them.

A job is submitted with the config that was composed and checked here: a later edit of ``conf/``
changes no queued job. submitit writes and submits the files.
"""

import contextlib
import importlib.util
import io
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunSpec
from attention_lab.external_programs import run_program
from attention_lab.printing import echo
from attention_lab.sweeps.display import Display
from attention_lab.sweeps.forkserver import OF_A_PROCESS_GROUP
from attention_lab.sweeps.jobs import build_jobs
from attention_lab.sweeps.launcher_options import check_types
from attention_lab.sweeps.slurm_queue import (
    ENDED,
    FOLDER,
    Queue,
    Submission,
    in_queue,
    longest_array,
    write_submission,
)
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_status import read_status
from attention_lab.training.distributed.launch import launch
from attention_lab.training.distributed.workers import print_into

POLL_SECONDS = 0.5
#: Starts a command with SIGUSR2 blocked until it is ready to receive it.
BLOCKED = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
#: Options of sbatch that follow from others, and from which.
DERIVED = {
    "nodes": "trainer.num_nodes",
    "ntasks": "trainer.devices and trainer.num_nodes",
    "ntasks-per-node": "trainer.devices",
    "array": "the sweep; hydra.launcher.at_once limits it",
    **dict.fromkeys(("output", "error", "open-mode"), "the sweep: slurm/ below its directory"),
    **{
        name: f"hydra.launcher.{name.replace('-', '_')}"
        for name in ("partition", "account", "qos", "constraint", "time", "cpus-per-task")
    },
    "signal": "hydra.launcher.signal",
    "requeue": "hydra.launcher.requeue",
    "no-requeue": "hydra.launcher.requeue",
    "mem": "hydra.launcher.memory",
    "gpus-per-node": "hydra.launcher.gpus",
}


@dataclass(frozen=True)
class Slurm:
    """The options of ``hydra/launcher=slurm``.

    Raises:
        ConfigError: if a value is invalid.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    #: Minutes after which a job is requeued.
    time: PositiveInt | None = None
    #: GB on each node.
    memory: PositiveFloat | None = None
    #: CPU cores of each process.
    cpus_per_task: PositiveInt | None = None
    #: GPUs on each node; None means trainer.devices if these are GPUs.
    gpus: NonNegativeInt | None = None
    #: Jobs of one array that run at a time; None means no limit.
    at_once: PositiveInt | None = None
    #: Seconds before the time limit at which a run is told to save.
    signal: PositiveInt = 60
    #: Whether a job that was preempted, timed out or lost its node is requeued.
    requeue: bool = True
    #: Lines of shell before each job.
    setup: list[str] = field(default_factory=list)
    #: Any other option of sbatch.
    extra: Mapping[str, Any] | None = None
    #: Whether to follow the jobs until they have ended.
    wait: bool = True
    #: Seconds between two queries of the queue.
    poll: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        check_types(self)
        if self.time is not None and self.signal >= 60 * self.time:
            raise ConfigError(
                f"hydra.launcher.signal: {self.signal} s before the end of "
                f"hydra.launcher.time={self.time} (minutes) there is no time to train"
            )
        for name in self.extra or ():
            if (source := DERIVED.get(str(name).replace("_", "-"))) is not None:
                raise ConfigError(f"hydra.launcher.extra.{name}: comes from {source}")

    def check(self, jobs: Sequence[RunSpec]) -> None:
        """Raise ConfigError if a job cannot work, or with SLURM's reason if it would refuse it."""
        build_jobs(jobs)
        for request, alike in self.requests(jobs, longest_array()):
            options = {**request, **(self.extra or {})}
            if len(alike) > 1:
                options["array"] = f"0-{len(alike) - 1}"
            flags = [_flag(name, value) for name, value in options.items()]
            with _outside_of_jobs():
                done = run_program("sbatch", "--test-only", *flags, "--wrap=:", timeout=None)
            if done.error is not None:
                raise ConfigError(f"{_one_line(done.stderr or done.error)} ({' '.join(flags)})")

    def run(self, jobs: Sequence[RunSpec], display: Display) -> None:
        """Submit the jobs that are not in the queue, and follow all until they have ended.

        Raises:
            ConfigError: if SLURM refuses a job.
            NoQueue: if SLURM does not answer.
        """
        queued = in_queue([job.directory for job in jobs])
        earlier = {job.directory: read_status(job.directory).record for job in jobs}
        queue = Queue(self.poll)
        new = [job for job in jobs if job.directory not in queued and not is_locked(job.directory)]
        for request, alike in self.requests(new, longest_array()):
            self._submit(request, alike)
        others = len(jobs) - len(new)
        left_out = f"; {others} are already in the queue or running" if others else ""
        echo(f"{len(new)} jobs submitted to SLURM{left_out}")
        if self.wait:
            _follow(jobs, earlier, queue, display)

    def requests(
        self, jobs: Sequence[RunSpec], at_most: int | None = None
    ) -> list[tuple[dict[str, Any], Sequence[RunSpec]]]:
        """The options of sbatch, with the jobs that share them: each makes one array.

        Args:
            jobs: of a sweep.
            at_most: the longest array; None means any length.
        """
        by_request: dict[str, list[RunSpec]] = {}
        for job in jobs:
            by_request.setdefault(json.dumps(self._request(job)), []).append(job)
        return [
            (json.loads(request), alike[start : start + (at_most or len(alike))])
            for request, alike in by_request.items()
            for start in range(0, len(alike), at_most or len(alike))
        ]

    def _request(self, job: RunSpec) -> dict[str, Any]:
        """The options of sbatch for a job, with underscores; without the cluster's defaults."""
        trainer = job.config.values["trainer"]
        nodes, devices = (_count(trainer, name) for name in ("num_nodes", "devices"))
        request = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "time": self.time,
            "mem": None if self.memory is None else _size(self.memory),
            "cpus_per_task": self.cpus_per_task,
            "nodes": nodes,
            "ntasks_per_node": devices,
            "gpus_per_node": self._gpus(trainer.get("accelerator"), devices) or None,
        }
        return {name: value for name, value in request.items() if value is not None}

    def _gpus(self, accelerator: str | None, devices: int) -> int:
        """GPUs on each node."""
        if self.gpus is None:
            if accelerator == "auto":
                raise ConfigError(
                    "trainer.accelerator=auto: cannot infer the GPUs to request; choose "
                    "trainer=gpu or trainer=cpu, or set hydra.launcher.gpus"
                )
            return devices if accelerator == "gpu" else 0
        if accelerator == "gpu" and self.gpus != devices:
            raise ConfigError(
                f"hydra.launcher.gpus={self.gpus}: trainer.devices={devices} GPUs train on each "
                "node; leave it out"
            )
        return self.gpus

    def _submit(self, request: Mapping[str, Any], jobs: Sequence[RunSpec]) -> None:
        """Submit jobs with the same options as one array, and record each job's number."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        python = shlex.join([sys.executable, "-c", BLOCKED, sys.executable])
        executor = SlurmExecutor(jobs[0].directory.parent / FOLDER, python=python)
        requeue = {"requeue" if self.requeue else "no-requeue": True}
        srun = ["--kill-on-bad-exit=1"]  # ranks wait for each other: one that died blocks the rest
        if self.cpus_per_task is not None:  # srun does not inherit it from sbatch
            srun.append(f"--cpus-per-task={self.cpus_per_task}")
        executor.update_parameters(
            **{"time": None, **request},
            job_name=jobs[0].group,
            wckey=None,
            signal_delay_s=self.signal,
            array_parallelism=self.at_once or len(jobs),
            setup=self.setup or None,
            stderr_to_stdout=True,
            srun_args=srun,
            additional_parameters={**requeue, **(self.extra or {})},
        )
        printed = io.StringIO()  # the error repeats it
        try:
            with no_ctrl_c(), contextlib.redirect_stderr(printed), _outside_of_jobs():
                with executor.batch():
                    submitted = [executor.submit(run_task, job) for job in jobs]
                for job, handle in zip(jobs, submitted, strict=True):
                    write_submission(job.directory, Submission(handle.job_id, list(job.overrides)))
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(_one_line(str(error))) from None


def check_installed() -> None:
    """Raise ConfigError if jobs cannot be submitted from this machine."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm: there is no sbatch here; use a login node of a SLURM cluster, "
            "or leave it out to run the jobs on this machine"
        )
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError("hydra/launcher=slurm: needs pip install 'attention-lab[slurm]'")


def run_task(job: RunSpec) -> None:
    """One process of a run, started by srun: train; rank 0 prints into the run's ``log.txt``."""
    if os.environ.get("SLURM_PROCID", "0") == "0":
        print_into(job.directory / "log.txt")
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
        torch.set_num_threads(int(cores))
    # In place of submitit's handlers; a run installs its own while it trains.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, lambda *_: None)  # SIG_IGN would discard a pending signal
    launch(job)


def _follow(
    jobs: Sequence[RunSpec], earlier: Mapping[Path, object], queue: Queue, display: Display
) -> None:
    """Show the progress of jobs until each has ended or left the queue."""
    left = [job.directory for job in jobs]
    while left:
        queue.refresh()
        display.refresh()
        for path in list(left):
            found = read_status(path)
            if found.state in ENDED and found.record != earlier[path]:
                left.remove(path)
                display.ended(path, found)
            elif queue.has_lost(path):
                left.remove(path)
                display.ended(path, queue.settle(path))
        time.sleep(POLL_SECONDS)


def _count(trainer: Mapping[str, Any], name: str) -> int:
    value = trainer.get(name, 1)
    if type(value) is not int or value < 1:
        raise ConfigError(f"trainer.{name}: must be a number for SLURM, got {value!r}")
    return value


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"


def _size(gigabytes: float) -> str:
    """Gigabytes as sbatch reads them, in whole numbers."""
    whole = round(gigabytes)
    return f"{whole}G" if whole == gigabytes else f"{round(gigabytes * 1024)}M"


def _one_line(message: str) -> str:
    """SLURM's reasons in one line, without its general advice."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "; ".join(line for line in lines if not line.startswith("Try ")) or "sbatch failed"


@contextlib.contextmanager
def no_ctrl_c() -> Iterator[None]:
    """Delay Ctrl-C until submitted jobs are recorded; otherwise they would be submitted again."""
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # also in programs started here
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the SLURM job that this process may itself run in."""
    names = [name for name in OF_A_PROCESS_GROUP if name in os.environ]
    if "SLURM_JOB_ID" in os.environ:
        names += [name for name in os.environ if name.startswith("SLURM_")]
    hidden = {name: os.environ.pop(name) for name in names if name != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(hidden)
