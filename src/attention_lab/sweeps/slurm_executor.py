"""Submits the jobs of a sweep to SLURM; they run without the command that submitted them.

A job is submitted with its checked config: a later edit of ``conf/`` changes no queued job.
submitit writes the batch scripts and submits them.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from attention_lab.atomic_write import write_atomically
from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunSpec
from attention_lab.external_programs import run_program
from attention_lab.printing import echo
from attention_lab.sweeps.forkserver import PROCESS_VARIABLES
from attention_lab.sweeps.jobs import build_jobs
from attention_lab.sweeps.plugin_options import check_types
from attention_lab.sweeps.slurm_queue import FOLDER, Queue, in_queue, longest_array
from attention_lab.sweeps.watch import follow
from attention_lab.sweeps.watchers import TooManyFailures, Watcher
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_directory import SUBMISSION
from attention_lab.tracking.run_status import read_status
from attention_lab.training.distributed.launch import launch
from attention_lab.training.distributed.workers import print_into

#: Starts a command with SIGUSR2 blocked until it is ready to receive it.
BLOCKED = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
#: Options that sbatch has under the same name.
AS_IN_SBATCH = ("partition", "account", "qos", "constraint", "time", "cpus_per_task")
#: Options of sbatch that other settings determine, and those settings.
DETERMINED = {
    "nodes": "trainer.num_nodes",
    "ntasks": "trainer.devices and trainer.num_nodes",
    "ntasks_per_node": "trainer.devices",
    "array": "the sweep; hydra.launcher.at_once limits it",
    **dict.fromkeys(("output", "error", "open_mode"), "the sweep: slurm/ below its directory"),
    "mem": "hydra.launcher.memory",
    "gpus_per_node": "hydra.launcher.gpus",
    "no_requeue": "hydra.launcher.requeue",
}


@dataclass(frozen=True)
class Slurm:
    """The options of ``hydra/launcher=slurm``; ``conf/hydra/launcher/slurm.yaml`` explains them.

    Raises:
        ConfigError: if a value is invalid.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: PositiveInt | None = None
    memory: PositiveFloat | None = None
    cpus_per_task: PositiveInt | None = None
    gpus: NonNegativeInt | None = None
    at_once: PositiveInt | None = None
    signal: PositiveInt = 60
    requeue: bool = True
    setup: list[str] = field(default_factory=list)
    extra: dict[str, Any] | None = None
    wait: bool = True
    poll: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        check_types(self)
        if self.time is not None and self.signal >= 60 * self.time:
            raise ConfigError(
                f"hydra.launcher.signal={self.signal} (seconds): must be less than "
                f"hydra.launcher.time={self.time} (minutes), or no time to train is left"
            )
        own = {each.name: f"hydra.launcher.{each.name}" for each in fields(self)}
        for name in self.extra or ():
            if (source := (own | DETERMINED).get(str(name).replace("-", "_"))) is not None:
                raise ConfigError(f"hydra.launcher.extra.{name}: comes from {source}")

    def check(self, jobs: Sequence[RunSpec]) -> None:
        """Raise ConfigError if a job cannot work, or with SLURM's reason if it would refuse it."""
        build_jobs(jobs, run_here=False)
        for request, alike in self.requests(jobs, longest_array()):
            array = {"array": f"0-{len(alike) - 1}"} if len(alike) > 1 else {}
            flags = [_flag(*each) for each in (request | array | (self.extra or {})).items()]
            with _outside_of_jobs():
                done = run_program("sbatch", "--test-only", *flags, "--wrap=:", timeout=None)
            if done.error is not None:
                raise ConfigError(f"{done.error} ({' '.join(flags)})")

    def run(self, jobs: Sequence[RunSpec], watcher: Watcher) -> None:
        """Submit the jobs that are not in the queue, and follow all until they have ended.

        Raises:
            ConfigError: if SLURM refuses a job.
            NoQueue: if SLURM does not answer.
        """
        directories = [job.directory for job in jobs]
        earlier = {path: read_status(path).record for path in directories}
        queued = in_queue(directories)
        new = [job for job in jobs if job.directory not in queued and not is_locked(job.directory)]
        for request, alike in self.requests(new, longest_array()):
            self._submit(request, alike)
        others = len(jobs) - len(new)
        left_out = f"; {others} are already in the queue or running" if others else ""
        echo(f"{len(new)} jobs submitted to SLURM{left_out}")
        if self.wait:
            try:
                follow(lambda: directories, watcher, Queue(self.poll), earlier=earlier)
            except TooManyFailures:
                run_program("scancel", *in_queue(directories).values())
                raise

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
        length = at_most or len(jobs)
        return [
            (json.loads(request), alike[start : start + length])
            for request, alike in by_request.items()
            for start in range(0, len(alike), length)
        ]

    def _request(self, job: RunSpec) -> dict[str, Any]:
        """The options of sbatch for a job, with underscores; without the cluster's defaults."""
        trainer = job.config.values["trainer"]
        devices = trainer.get("devices", 1)
        request = {
            **{name: getattr(self, name) for name in AS_IN_SBATCH},
            "mem": None if self.memory is None else f"{round(1024 * self.memory)}M",
            "nodes": trainer.get("num_nodes", 1),
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
        srun = ["--kill-on-bad-exit=1"]  # otherwise the other ranks would wait for a failed one
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
                    note = json.dumps({"job": handle.job_id})
                    write_atomically(job.directory / SUBMISSION, note + "\n")
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(" ".join(str(error).split())) from None


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


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"


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
    """Hide the variables of the SLURM job that this process may itself run in.

    submitit's ``clean_env`` would also hide SLURM_CONF and the user's SBATCH_… defaults.
    """
    names = [name for name in PROCESS_VARIABLES if name in os.environ]
    if "SLURM_JOB_ID" in os.environ:
        names += [name for name in os.environ if name.startswith("SLURM_")]
    hidden = {name: os.environ.pop(name) for name in names if name != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(hidden)
