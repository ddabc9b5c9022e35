"""Follow the progress of sweeps by reading their files, in any process."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_lab.reports.runs import NotARun
from attention_lab.sweeps.display import INTERVAL, display
from attention_lab.sweeps.slurm_queue import Queue
from attention_lab.sweeps.sweep_file import TUNING, listed_jobs
from attention_lab.sweeps.watchers import Watcher
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_directory import SWEEP
from attention_lab.tracking.run_status import ENDED
from attention_lab.tracking.status_cache import FileCache, StatusCache


def watch(sweeps: Sequence[Path]) -> None:
    """Show the progress of sweeps until no process runs any of them.

    Raises:
        NotARun: for a directory without a sweep.
    """
    listed = FileCache(SWEEP, listed_jobs)
    with display(_jobs(sweeps, listed)) as shown:

        def jobs() -> Sequence[Path]:
            shown.directories = _jobs(sweeps, listed)
            return shown.directories

        follow(jobs, shown, Queue(), sweeps)


def follow(
    jobs: Callable[[], Sequence[Path]],
    watcher: Watcher,
    queue: Queue,
    sweeps: Sequence[Path] = (),
    earlier: Mapping[Path, dict[str, Any]] | None = None,
) -> None:
    """Follow runs until all have ended and no process has locked a sweep.

    Args:
        jobs: returns the run directories; a search adds runs while it is followed.
        watcher: is called once a second, and for each run that has ended.
        queue: the SLURM queue; a preempted run that is in it will resume.
        sweeps: sweeps that other processes may run.
        earlier: the records of runs that ended before they were submitted again.
    """
    ended: set[Path] = set()
    statuses, idle = StatusCache(), 0
    while idle < 2:  # checked twice: a search unlocks its sweep for a moment
        started = time.monotonic()
        queue.refresh()
        # Before the jobs are listed: a sweep adds jobs while it is locked.
        is_active = any(map(is_locked, sweeps))
        for path in jobs():
            status = statuses.read(path)
            has_ended = status.state in ENDED and status.record != (earlier or {}).get(path)
            if has_ended and path in ended:
                continue
            if not has_ended and (queue.has(path) or is_locked(path)):
                is_active = True
                ended.discard(path)
            elif path not in ended and (status := queue.settle(path)).state != "waiting":
                ended.add(path)
                watcher.ended(path, status)
        idle = 0 if is_active else idle + 1
        watcher.refresh()
        # Reading thousands of runs, as on a slow file system, takes a fifth of the time at most.
        time.sleep(max(INTERVAL, 4 * (time.monotonic() - started)))


def _jobs(sweeps: Sequence[Path], listed: FileCache[dict[Path, list[str]]]) -> list[Path]:
    """The run directories of sweeps, those of their tuning first."""
    found: list[Path] = []
    for sweep in sweeps:
        places = [place for place in (sweep / TUNING, sweep) if (place / SWEEP).exists()]
        if not places:
            raise NotARun(f"there is no sweep to watch: {sweep / SWEEP} is missing")
        found += [path for place in places for path in listed.read(place)]
    return found
