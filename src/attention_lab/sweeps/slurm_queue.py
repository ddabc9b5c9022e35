"""SLURM's queue, as far as the runs of sweeps are in it.

Nothing here needs accounting (``sacct``), which many clusters do not have. What squeue says no more
is told from the files of a run, and from its lock.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from attention_lab.atomic_write import write_atomically
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.sweeps.run_status import Standing, standing
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.record_files import (
    Status,
    UnreadableRecord,
    last_lines,
    read_json,
)
from attention_lab.tracking.run_directory import (
    IN_QUEUE,
    read_config,
    record_failure,
)

#: Where, below a sweep, its submissions and SLURM's own logs are.
FOLDER = "slurm"
#: The states of jobs that will not run any more (squeue(1)), and what they mean.
OVER = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "cancelled",
    "COMPLETED": "ended without a result",
    "DEADLINE": "missed its deadline",
    "FAILED": "ended",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "preempted",
    "REVOKED": "taken to another cluster",
    "TIMEOUT": "reached its time limit",
}
#: Those of them that are no fault of the run's: asked for again, it goes on.
INTERRUPTED = ("BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED")
#: What has become of a run that will not change by itself.
ENDED = ("finished", "failed", "diverged")


class NoQueue(ValueError):
    """SLURM does not answer. The message is its own."""


class Ticket(NamedTuple):
    """What a run directory says of its place in the queue."""

    #: The SLURM job, as "12", or "12_3" in an array.
    job: str
    #: What the run was asked for.
    overrides: list[str]


def write_ticket(directory: Path, ticket: Ticket) -> None:
    """Note in a run directory that it was submitted, and as what."""
    write_atomically(directory / IN_QUEUE, json.dumps(ticket._asdict()) + "\n")


def read_ticket(directory: Path) -> Ticket | None:
    """The latest SLURM job of a run directory; None if there never was any."""
    try:
        ticket = Ticket(**read_json(directory / IN_QUEUE))
    except (FileNotFoundError, UnreadableRecord, TypeError):
        return None
    is_job = isinstance(ticket.job, str) and re.fullmatch(r"[\d_+]+", ticket.job)
    return ticket if is_job and isinstance(ticket.overrides, list) else None


def states() -> dict[str, str]:
    """The state of each of the user's jobs, those that ended of late included.

    Raises:
        NoQueue: if SLURM does not answer.
    """
    mine = ("--noheader", "--array", "--states=all", f"--user={os.getuid()}")
    said = _ask("squeue", *mine, "--format=%i|%T")
    lines = (line.strip().partition("|") for line in said.splitlines())
    return {job: state for job, _, state in lines}


def longest_array() -> int:
    """How many jobs SLURM takes as one array, at least 1.

    Raises:
        NoQueue: if it does not answer.
    """
    said = _ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, int(found[1])) if found else 1


def _ask(*command: str) -> str:
    """What a command of SLURM's says.

    Raises:
        NoQueue: if it says nothing, or what is wrong.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoQueue(f"{command[0]}: {error}") from None
    if done.returncode:
        raise NoQueue(done.stderr.strip().partition("\n")[0] or f"{command[0]} failed")
    return done.stdout


class Queue:
    """What squeue says, asked now and then, of the runs that have a ticket.

    Args:
        every: seconds from one look to the next.
    """

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self._is_here = shutil.which("squeue") is not None
        self._looked = float("-inf")
        self._looks: deque[Mapping[str, str]] = deque(maxlen=2)

    def look(self) -> None:
        """Look again, if it is time to; a queue that does not answer says nothing new."""
        if not self._is_here or time.monotonic() - self._looked < self.every:
            return
        self._looked = time.monotonic()
        with suppress(NoQueue):  # it may answer again
            self._looks.append(states())

    def has(self, directory: Path) -> bool:
        """Whether a run is in the queue, as far as is known: it is gone if two looks say so."""
        known = read_ticket(directory)
        if known is None or not self._is_here:
            return False
        return len(self._looks) < 2 or any(_is_active(look, known.job) for look in self._looks)

    def has_lost(self, directory: Path) -> bool:
        """Whether a run is not, or no longer, in the queue, and not at work elsewhere."""
        return not self.has(directory) and not is_locked(directory)

    def settle(self, directory: Path) -> Standing:
        """How a run stands that SLURM has lost; a death without a word is recorded for it."""
        found, known = standing(directory), read_ticket(directory)
        is_silent = found.record.get("status") in (None, "running")
        if known is None or not self._is_here or not is_silent:
            return found
        last = self._looks[-1].get(known.job)
        state: Status = "preempted" if last is None or last in INTERRUPTED else "failed"
        error = f"SLURM job {known.job}: {_cause(last, directory)}"
        spec = RunSpec(RunConfig(read_config(directory)), directory, known.overrides)
        record_failure(spec, error, state)
        return standing(directory)


def in_queue(directories: Sequence[Path]) -> list[str]:
    """The SLURM jobs of those runs that are in the queue, and have not ended by their own account.

    Raises:
        NoQueue: if there are any that were submitted, and SLURM does not answer.
    """
    tickets = {path: known for path in directories if (known := read_ticket(path))}
    if not tickets:
        return []
    now = states()
    return [
        known.job
        for path, known in tickets.items()
        if _is_active(now, known.job) and standing(path).state not in ENDED
    ]


def how_to_follow(sweep: Path, jobs: Sequence[str]) -> str:
    """How to watch and cancel SLURM jobs that are left alone, in a few lines."""
    arrays = list(dict.fromkeys(job.partition("_")[0] for job in jobs))
    return (
        f"{len(jobs)} jobs in SLURM's queue, which need this shell no more\n"
        f"to watch them    attention-lab report {sweep} --watch\n"
        f"to cancel them   scancel {' '.join(arrays)}"
    )


def _is_active(look: Mapping[str, str], job: str) -> bool:
    return job in look and look[job] not in OVER


def _cause(state: str | None, directory: Path) -> str:
    if state is None:
        return "gone from the queue without a word"
    if state == "FAILED" and (last := _last_line(directory)):
        return f"ended: {last}"
    return OVER[state]


def _last_line(directory: Path) -> str:
    """What SLURM has said last of a job, else the last line that it has printed."""
    known = read_ticket(directory)
    logs = [directory / "log.txt"]
    logs += [directory.parent / FOLDER / f"{known.job}_0_log.out"] if known else []
    lines = [line for log in logs for line in last_lines(log)]
    of_slurm = [line for line in lines if line.startswith(("srun: error:", "slurmstepd"))]
    return (of_slurm or lines or [""])[-1]
