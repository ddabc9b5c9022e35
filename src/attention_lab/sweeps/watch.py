"""Watching sweeps from another terminal: all that is needed is in their files."""

import time
from collections.abc import Sequence
from pathlib import Path

from attention_lab.reports.runs import NotARun
from attention_lab.sweeps.display import EVERY, display
from attention_lab.sweeps.run_status import RunStatus, read_status
from attention_lab.sweeps.slurm_queue import ENDED, Queue
from attention_lab.sweeps.sweep_file import TUNING, job_directories
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_directory import SWEEP


def watch(sweeps: Sequence[Path]) -> None:
    """Show how the jobs of sweeps stand, until no process is at work on any of them.

    Raises:
        NotARun: for a directory without a sweep.
    """
    ended: dict[Path, RunStatus] = {}
    quiet, queue = 0, Queue()
    with display(_jobs(sweeps)) as shown:
        while True:
            queue.refresh()
            jobs = _jobs(sweeps)
            shown.directories = jobs  # a search draws more as it goes
            # Twice, as a search lets go for a moment; and before the last look at the jobs.
            quiet = 0 if any(map(is_locked, sweeps)) else quiet + 1
            for path in jobs:
                found = read_status(path)
                if found.state not in ENDED and queue.has(path):
                    quiet = 0
                    continue  # what was preempted will go on
                if found.state not in ENDED and queue.has_lost(path):
                    found = queue.settle(path)
                if path not in ended and found.state not in ("waiting", "running"):
                    ended[path] = found
                    shown.ended(path, found)
                elif found.state == "running":
                    ended.pop(path, None)
            shown.refresh()
            if quiet > 1:
                return
            time.sleep(EVERY)


def _jobs(sweeps: Sequence[Path]) -> list[Path]:
    """The jobs of sweeps, those of their tuning first."""
    found = []
    for sweep in sweeps:
        places = [place for place in (sweep / TUNING, sweep) if (place / SWEEP).exists()]
        if not places:
            raise NotARun(f"there is no sweep to watch: {sweep / SWEEP} is missing")
        found += [path for place in places for path in job_directories(place)]
    return found
