"""Watches sweeps from another terminal, by their files."""

import time
from collections.abc import Sequence
from pathlib import Path

from attention_lab.reports.runs import NotARun
from attention_lab.sweeps.display import INTERVAL, display
from attention_lab.sweeps.slurm_queue import ENDED, Queue
from attention_lab.sweeps.sweep_file import TUNING, job_directories
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_directory import SWEEP
from attention_lab.tracking.run_status import RunStatus, read_status


def watch(sweeps: Sequence[Path]) -> None:
    """Show the progress of sweeps until no process runs any of them.

    Raises:
        NotARun: for a directory without a sweep.
    """
    ended: dict[Path, RunStatus] = {}
    idle, queue = 0, Queue()
    with display(_jobs(sweeps)) as shown:
        while True:
            queue.refresh()
            jobs = _jobs(sweeps)
            shown.directories = jobs  # a search adds jobs while it runs
            # Checked twice, as a search unlocks its sweep for a moment, and before the jobs.
            idle = 0 if any(map(is_locked, sweeps)) else idle + 1
            for path in jobs:
                status = read_status(path)
                if status.state not in ENDED and queue.has(path):
                    idle = 0
                    continue  # a preempted job resumes
                if status.state not in ENDED and queue.has_lost(path):
                    status = queue.settle(path)
                if path not in ended and status.state not in ("waiting", "running"):
                    ended[path] = status
                    shown.ended(path, status)
                elif status.state == "running":
                    ended.pop(path, None)
            shown.refresh()
            if idle > 1:
                return
            time.sleep(INTERVAL)


def _jobs(sweeps: Sequence[Path]) -> list[Path]:
    """The run directories of sweeps, those of their tuning first."""
    found = []
    for sweep in sweeps:
        places = [place for place in (sweep / TUNING, sweep) if (place / SWEEP).exists()]
        if not places:
            raise NotARun(f"there is no sweep to watch: {sweep / SWEEP} is missing")
        found += [path for place in places for path in job_directories(place)]
    return found
