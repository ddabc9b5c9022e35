"""Running the jobs of a sweep as jobs of SLURM, which need the command that submits them no more.

Each is composed and checked here, and travels as it is: a later edit of ``conf/`` changes no job in
the queue. submitit writes and submits the files; how jobs go on is seen from their directories.
"""

import contextlib
import importlib.util
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunSpec
from attention_lab.printing import echo
from attention_lab.spelling import nearest
from attention_lab.sweeps.display import Display
from attention_lab.sweeps.forkserver import OF_A_PROCESS_GROUP
from attention_lab.sweeps.jobs import build_jobs
from attention_lab.sweeps.run_status import standing
from attention_lab.sweeps.slurm_queue import (
    ENDED,
    FOLDER,
    Queue,
    Ticket,
    in_queue,
    longest_array,
    read_ticket,
    write_ticket,
)
from attention_lab.tracking.lock import is_locked
from attention_lab.training.distributed.launch import launch
from attention_lab.training.distributed.workers import print_into

POLL_SECONDS = 0.5
#: Starts a command to which SLURM's signal comes only once it wants to have it.
LATER = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
#: What sbatch is told by other means, and by which.
TOLD = {
    "nodes": "trainer.num_nodes",
    "ntasks": "trainer.devices and trainer.num_nodes",
    "ntasks-per-node": "trainer.devices",
    "array": "the sweep; hydra.launcher.at_once limits it",
    "signal": "hydra.launcher.signal",
    "requeue": "hydra.launcher.requeue",
    "no-requeue": "hydra.launcher.requeue",
    "output": "the sweep: slurm/ below its directory",
    "error": "the sweep: slurm/ below its directory",
    "open-mode": "the sweep: slurm/ below its directory",
    "partition": "hydra.launcher.partition",
    "account": "hydra.launcher.account",
    "qos": "hydra.launcher.qos",
    "constraint": "hydra.launcher.constraint",
    "time": "hydra.launcher.time",
    "mem": "hydra.launcher.memory",
    "cpus-per-task": "hydra.launcher.cpus_per_task",
    "gpus-per-node": "hydra.launcher.gpus",
}


@dataclass(frozen=True)
class Slurm:
    """What to ask SLURM for.

    Raises:
        ConfigError: if a value is out of range.
    """

    #: What the cluster calls a set of nodes, who pays, a priority, and features of nodes.
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    #: Minutes that a job may take at a time.
    time: int | None = None
    #: GB on each node.
    memory: float | None = None
    #: CPU cores of each process.
    cpus_per_task: int | None = None
    #: GPUs on each node; None means as many as the trainer has devices, if these are GPUs.
    gpus: int | None = None
    #: Jobs of one array that run at a time; None means any number.
    at_once: int | None = None
    #: Seconds before the time limit at which a run is told to save.
    signal: int = 60
    #: Whether a job that was preempted, timed out or lost its node is queued again.
    requeue: bool = True
    #: Lines of shell before each job.
    setup: Sequence[str] = ()
    #: Any other option of sbatch.
    extra: Mapping[str, Any] | None = None
    #: Whether to follow the jobs until they have ended.
    wait: bool = True
    #: Seconds from one look at the queue to the next.
    poll: float = 10.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Slurm":
        """The options of ``hydra.launcher``, as plain values."""
        known = [each.name for each in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(
                    f"hydra.launcher.{name}: SLURM's has no such key{nearest(name, known)}"
                )
        return cls(**options)

    def __post_init__(self) -> None:
        counts = {"time": 1, "cpus_per_task": 1, "gpus": 0, "at_once": 1, "signal": 1}
        for name, least in counts.items():
            value = getattr(self, name)
            is_left_out = value is None and name != "signal"
            if not is_left_out and (type(value) is not int or value < least):
                raise ConfigError(
                    f"hydra.launcher.{name}: must be a whole number, at least {least}; "
                    f"got {value!r}"
                )
        for name in ("memory", "poll"):
            value = getattr(self, name)
            is_left_out = value is None and name == "memory"
            if not is_left_out and (type(value) not in (int, float) or value <= 0):
                raise ConfigError(f"hydra.launcher.{name}: must be above 0, got {value!r}")
        for name in ("requeue", "wait"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"hydra.launcher.{name}: must be true or false")
        if self.time is not None and self.signal >= 60 * self.time:
            raise ConfigError(
                f"hydra.launcher.signal: {self.signal} s before the end of "
                f"hydra.launcher.time={self.time} (minutes) there is no time to train"
            )
        if not isinstance(self.extra, Mapping | None):
            raise ConfigError("hydra.launcher.extra: must be options of sbatch and their values")
        if isinstance(self.setup, str) or not all(isinstance(line, str) for line in self.setup):
            raise ConfigError("hydra.launcher.setup: must be a list of lines of shell")
        for name in self.extra or ():
            if (told := TOLD.get(str(name).replace("_", "-"))) is not None:
                raise ConfigError(f"hydra.launcher.extra.{name}: comes from {told}")

    def check(self, jobs: Sequence[RunSpec]) -> None:
        """Find out whether jobs can work, and whether SLURM would take them.

        Raises:
            ConfigError: if a job cannot work, or with what sbatch says against it.
        """
        build_jobs(jobs)
        for request, alike in self.requests(jobs, longest_array()):
            flags = [_flag(name, value) for name, value in request.items()]
            flags += [_flag(name, value) for name, value in (self.extra or {}).items()]
            flags += [f"--array=0-{len(alike) - 1}"] if len(alike) > 1 else []
            command = ["sbatch", "--test-only", *flags, "--wrap=:"]
            with _outside_of_jobs():
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ConfigError(f"{_one_line(done.stderr)} ({' '.join(flags)})")

    def run(self, jobs: Sequence[RunSpec], display: Display) -> None:
        """Submit those of the jobs that are not in the queue, and follow all to their ends.

        Raises:
            ConfigError: if SLURM does not take them.
            NoQueue: if it does not answer.
        """
        queued = set(in_queue([job.directory for job in jobs]))
        earlier = {job.directory: standing(job.directory).record for job in jobs}
        queue = Queue(self.poll)
        tickets = {path: known.job for path in earlier if (known := read_ticket(path))}
        new = [
            job
            for job in jobs
            if tickets.get(job.directory) not in queued and not is_locked(job.directory)
        ]
        for request, alike in self.requests(new, longest_array()):
            self._submit(request, alike)
        left_out = f"; {len(jobs) - len(new)} are there already" if len(new) < len(jobs) else ""
        echo(f"{len(new)} jobs submitted to SLURM{left_out}")
        if self.wait:
            _follow(jobs, earlier, queue, display)

    def requests(
        self, jobs: Sequence[RunSpec], at_most: int | None = None
    ) -> list[tuple[dict[str, Any], Sequence[RunSpec]]]:
        """What to ask for, with the jobs that need it: each makes one array.

        Args:
            jobs: of a sweep.
            at_most: how many make one; None means any number.
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
        """What a job needs, by sbatch's names with underscores; without what is left to SLURM."""
        trainer = job.config.values["trainer"]
        nodes, devices = (_count(trainer, name) for name in ("num_nodes", "devices"))
        wanted = {
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
        return {name: value for name, value in wanted.items() if value is not None}

    def _gpus(self, accelerator: str | None, devices: int) -> int:
        """GPUs on each node."""
        if self.gpus is None:
            if accelerator == "auto":
                raise ConfigError(
                    "trainer.accelerator=auto: what to ask SLURM for cannot be told; choose "
                    "trainer=gpu or trainer=cpu, or give hydra.launcher.gpus"
                )
            return devices if accelerator == "gpu" else 0
        if accelerator == "gpu" and self.gpus != devices:
            raise ConfigError(
                f"hydra.launcher.gpus={self.gpus}: trainer.devices={devices} GPUs are to train on "
                "each node; leave it out"
            )
        return self.gpus

    def _submit(self, request: Mapping[str, Any], jobs: Sequence[RunSpec]) -> None:
        """Submit jobs that need the same as one array, and note in each directory as what."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        python = shlex.join([sys.executable, "-c", LATER, sys.executable])
        executor = SlurmExecutor(jobs[0].directory.parent / FOLDER, python=python)
        again = {"requeue" if self.requeue else "no-requeue": True}
        # Ranks wait for each other, so one that dies leaves the others hanging.
        options = ["--kill-on-bad-exit=1"]
        if self.cpus_per_task is not None:  # of which srun takes none over from sbatch
            options.append(f"--cpus-per-task={self.cpus_per_task}")
        asked = {"time": None, **request}
        executor.update_parameters(
            **asked,
            job_name=jobs[0].group,
            wckey=None,
            signal_delay_s=self.signal,
            array_parallelism=self.at_once or len(jobs),
            setup=list(self.setup) or None,
            stderr_to_stdout=True,
            srun_args=options,
            additional_parameters={**again, **(self.extra or {})},
        )
        said = io.StringIO()  # which the error says again
        try:
            with no_ctrl_c(), contextlib.redirect_stderr(said), _outside_of_jobs():
                with executor.batch():
                    submitted = [executor.submit(run_task, job) for job in jobs]
                for job, handle in zip(jobs, submitted, strict=True):
                    write_ticket(job.directory, Ticket(handle.job_id, list(job.overrides)))
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(_one_line(str(error))) from None


def check_installed() -> None:
    """Raise ConfigError unless jobs can be submitted from here."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm: there is no sbatch here, so this is no login node of a SLURM "
            "cluster; leave it out to run the jobs on this machine"
        )
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError("hydra/launcher=slurm: pip install 'attention-lab[slurm]' brings it")


def run_task(job: RunSpec) -> None:
    """One process of a run, which srun has started: train, and print into the run's ``log.txt``."""
    if os.environ.get("SLURM_PROCID", "0") == "0":
        print_into(job.directory / "log.txt")
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
        torch.set_num_threads(int(cores))
    # Of these, submitit would make what it makes of any job; a run listens while it goes on.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, lambda *_: None)  # SIG_IGN would forget that it came already
    launch(job)


def _follow(
    jobs: Sequence[RunSpec], earlier: Mapping[Path, object], queue: Queue, display: Display
) -> None:
    """Show how jobs go on until each has ended, or SLURM has lost it."""
    left = [job.directory for job in jobs]
    while left:
        queue.look()
        display.refresh()
        for path in list(left):
            found = standing(path)
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
        raise ConfigError(f"trainer.{name}: SLURM has to know how many, got {value!r}")
    return value


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"


def _size(gigabytes: float) -> str:
    """As sbatch has it, in whole numbers."""
    whole = round(gigabytes)
    return f"{whole}G" if whole == gigabytes else f"{round(gigabytes * 1024)}M"


def _one_line(message: str) -> str:
    """What sbatch said, without what it says of every failure."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "; ".join(line for line in lines if not line.startswith("Try ")) or "sbatch failed"


@contextlib.contextmanager
def no_ctrl_c() -> Iterator[None]:
    """Let it wait: what is submitted is noted, too, or it would be submitted again."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # also in what this starts
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Keep from a new job what tells of the one in which this process may run itself."""
    ours = [name for name in OF_A_PROCESS_GROUP if name in os.environ]
    if "SLURM_JOB_ID" in os.environ:
        ours += [name for name in os.environ if name.startswith("SLURM_")]
    hidden = {name: os.environ.pop(name) for name in ours if name != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(hidden)
