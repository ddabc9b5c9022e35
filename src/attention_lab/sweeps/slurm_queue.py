"""The SLURM queue: which runs are in it, and how the runs that left it have ended.

Only squeue, a run's files and its lock are read. submitit's job states need accounting (``sacct``),
which many clusters do not have.
"""

import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.external_programs import run_program
from attention_lab.sweeps.sweep_file import listed_jobs
from attention_lab.tracking.record_files import read_json
from attention_lab.tracking.record_schema import Status
from attention_lab.tracking.run_directory import SUBMISSION, SWEEP, read_config, record_failure
from attention_lab.tracking.run_status import ENDED, RunStatus, read_status
from attention_lab.tracking.status_cache import FileCache
from attention_lab.tracking.untrusted_files import UnreadableRecord, last_lines

#: The directory below a sweep for submitit's files and SLURM's logs.
FOLDER = "slurm"
#: States of SLURM jobs that SLURM or a user has ended (squeue(1)): the run can resume.
INTERRUPTED = ("BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED")
#: All states of SLURM jobs that have ended.
ENDED_STATES = (*INTERRUPTED, "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT")


class NoQueue(ValueError):
    """SLURM does not answer. The message is its own."""


def submitted_job(directory: Path) -> str | None:
    """The latest SLURM job of a run, such as "12", or "12_3" in an array; None if there is none."""
    try:
        job = read_json(directory / SUBMISSION)["job"]
    except (FileNotFoundError, NotADirectoryError, UnreadableRecord, LookupError, TypeError):
        return None
    return job if isinstance(job, str) and re.fullmatch(r"[\d_+]+", job) else None


def states() -> dict[str, str]:
    """The state of each of the user's SLURM jobs, including those that ended recently.

    Raises:
        NoQueue: if SLURM does not answer.
    """
    options = ("--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T")
    lines = (line.strip().partition("|") for line in _output("squeue", *options).splitlines())
    return {job: state for job, _, state in lines}


def longest_array() -> int:
    """The largest number of jobs in an array that SLURM accepts, at least 1.

    Raises:
        NoQueue: if SLURM does not answer.
    """
    config = _output("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return max(1, int(found[1])) if found else 1


def _output(*command: str) -> str:
    done = run_program(*command)
    if done.error is not None:
        raise NoQueue(done.error)
    return done.stdout


def in_queue(directories: Iterable[Path]) -> dict[Path, str]:
    """The SLURM job of each of these runs that is in the queue and has not ended by itself.

    Raises:
        NoQueue: if any run was submitted, and SLURM does not answer.
    """
    submitted = {path: job for path in directories if (job := submitted_job(path))}
    now = states() if submitted else {}
    return {
        path: job
        for path, job in submitted.items()
        if _is_active(now, job) and read_status(path).state not in ENDED
    }


class Queue:
    """The queue as squeue shows it at intervals; without squeue no run is in it.

    Args:
        interval: seconds between two queries.
    """

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self._is_installed = shutil.which("squeue") is not None
        self._refreshed = float("-inf")
        self._latest: deque[Mapping[str, str]] = deque(maxlen=2)
        self._submitted = FileCache(SUBMISSION, submitted_job)
        self._listed = FileCache(SWEEP, listed_jobs)

    def refresh(self) -> None:
        """Query again if it is time; without an answer nothing changes."""
        if self._is_installed and time.monotonic() - self._refreshed >= self.interval:
            self._refreshed = time.monotonic()
            with suppress(NoQueue):  # it may answer next time
                self._latest.append(states())

    def has(self, directory: Path) -> bool:
        """Whether a run is in the queue; it has left once two queries in a row say so."""
        job = self._submitted.read(directory)
        if job is None or not self._is_installed:
            return False
        return len(self._latest) < 2 or any(_is_active(each, job) for each in self._latest)

    def settle(self, directory: Path) -> RunStatus:
        """The status of a run that is not in the queue; records an exit that it did not record."""
        status, job = read_status(directory), self._submitted.read(directory)
        has_recorded = status.record.get("status") not in (None, "running")
        if job is None or not self._latest or has_recorded:
            return status
        last = self._latest[-1].get(job)
        state: Status = "preempted" if last is None or last in INTERRUPTED else "failed"
        overrides = self._listed.read(directory.parent).get(directory, [])
        spec = RunSpec(RunConfig(read_config(directory)), directory, overrides)
        record_failure(spec, f"SLURM job {job}: {_cause(last, directory, job)}", state)
        return read_status(directory)


def _is_active(states: Mapping[str, str], job: str) -> bool:
    return job in states and states[job] not in ENDED_STATES


def _cause(state: str | None, directory: Path, job: str) -> str:
    """Why a job ended: its state or, for a failure, the last line that SLURM or the job printed."""
    if state is None:
        return "left the queue, no exit status"
    logs = (directory / "log.txt", directory.parent / FOLDER / f"{job}_0_log.out")
    lines = [line for log in logs for line in last_lines(log)]
    by_slurm = [line for line in lines if line.startswith(("srun: error:", "slurmstepd"))]
    last = (by_slurm or lines or [""])[-1]
    if state == "FAILED" and last:
        return f"failed: {last}"
    return "completed without a result" if state == "COMPLETED" else state.lower().replace("_", " ")
