"""The SLURM queue: which runs are in it, and how those that left it have ended.

Only squeue, a run's files and its lock are used: many clusters have no accounting (``sacct``).
"""

import json
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from attention_lab.atomic_write import write_atomically
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.external_programs import run_program
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.record_files import read_json
from attention_lab.tracking.record_schema import Status
from attention_lab.tracking.run_directory import IN_QUEUE, read_config, record_failure
from attention_lab.tracking.run_status import RunStatus, read_status
from attention_lab.tracking.untrusted_files import UnreadableRecord, last_lines

#: The directory below a sweep for its submissions and SLURM's logs.
FOLDER = "slurm"
#: States of SLURM jobs that are not the run's fault (squeue(1)): it resumes when submitted again.
INTERRUPTED = ("BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED")
#: All states of SLURM jobs that have ended.
OVER = (*INTERRUPTED, "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT")
#: States of a run that do not change by themselves.
ENDED = ("finished", "failed", "diverged")


class NoQueue(ValueError):
    """SLURM does not answer. The message is its own."""


class Submission(NamedTuple):
    """``slurm.json`` in a run directory: the latest SLURM job of the run."""

    #: "12", or "12_3" in an array.
    job: str
    #: The overrides of the run.
    overrides: list[str]


def write_submission(directory: Path, submission: Submission) -> None:
    """Record in a run directory that the run was submitted."""
    write_atomically(directory / IN_QUEUE, json.dumps(submission._asdict()) + "\n")


def read_submission(directory: Path) -> Submission | None:
    """The latest SLURM job of a run; None if it has never been submitted."""
    try:
        submission = Submission(**read_json(directory / IN_QUEUE))
    except (FileNotFoundError, UnreadableRecord, TypeError):
        return None
    is_job = isinstance(submission.job, str) and re.fullmatch(r"[\d_+]+", submission.job)
    return submission if is_job and isinstance(submission.overrides, list) else None


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
    submitted = {path: known.job for path in directories if (known := read_submission(path))}
    now = states() if submitted else {}
    return {
        path: job
        for path, job in submitted.items()
        if _is_active(now, job) and read_status(path).state not in ENDED
    }


def how_to_follow(sweep: Path, jobs: Collection[str]) -> str:
    """How to watch and cancel SLURM jobs that nobody follows, in a few lines."""
    arrays = dict.fromkeys(job.partition("_")[0] for job in jobs)
    return (
        f"{len(jobs)} jobs in the SLURM queue; they do not need this shell\n"
        f"to watch them    attention-lab report {sweep} --watch\n"
        f"to cancel them   scancel {' '.join(arrays)}"
    )


class Queue:
    """squeue, asked at intervals about submitted runs.

    Args:
        interval: seconds between two queries.
    """

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self._is_installed = shutil.which("squeue") is not None
        self._refreshed = float("-inf")
        self._latest: deque[Mapping[str, str]] = deque(maxlen=2)

    def refresh(self) -> None:
        """Query again if it is time; without an answer nothing changes."""
        if self._is_installed and time.monotonic() - self._refreshed >= self.interval:
            self._refreshed = time.monotonic()
            with suppress(NoQueue):  # it may answer next time
                self._latest.append(states())

    def has(self, directory: Path) -> bool:
        """Whether a run is in the queue; it is gone once two queries in a row say so."""
        known = read_submission(directory)
        if known is None or not self._is_installed:
            return False
        return len(self._latest) < 2 or any(_is_active(each, known.job) for each in self._latest)

    def has_lost(self, directory: Path) -> bool:
        """Whether a run is not in the queue, and no process runs it."""
        return not self.has(directory) and not is_locked(directory)

    def settle(self, directory: Path) -> RunStatus:
        """The status of a run that left the queue; an exit that it did not record is recorded."""
        found, known = read_status(directory), read_submission(directory)
        has_recorded = found.record.get("status") not in (None, "running")
        if known is None or not self._is_installed or has_recorded:
            return found
        last = self._latest[-1].get(known.job)
        state: Status = "preempted" if last is None or last in INTERRUPTED else "failed"
        error = f"SLURM job {known.job}: {_cause(last, directory, known.job)}"
        spec = RunSpec(RunConfig(read_config(directory)), directory, known.overrides)
        record_failure(spec, error, state)
        return read_status(directory)


def _is_active(states: Mapping[str, str], job: str) -> bool:
    return job in states and states[job] not in OVER


def _cause(state: str | None, directory: Path, job: str) -> str:
    """Why a job ended: its state, and for a failure the last line of SLURM or of the job."""
    if state is None:
        return "left the queue, no exit status"
    logs = (directory / "log.txt", directory.parent / FOLDER / f"{job}_0_log.out")
    lines = [line for log in logs for line in last_lines(log)]
    by_slurm = [line for line in lines if line.startswith(("srun: error:", "slurmstepd"))]
    last = (by_slurm or lines or [""])[-1]
    if state == "FAILED" and last:
        return f"failed: {last}"
    return "completed without a result" if state == "COMPLETED" else state.lower().replace("_", " ")
