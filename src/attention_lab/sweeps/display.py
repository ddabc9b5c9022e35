"""Show the progress of a sweep's jobs: a live table, or a line for each job that ends."""

import functools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from attention_lab.data.core.metric_info import with_unit
from attention_lab.printing import echo, rich_console, rich_text
from attention_lab.sweeps.watchers import Watcher
from attention_lab.tracking.run_status import STATES, RunStatus
from attention_lab.tracking.status_cache import StatusCache

#: Seconds between two refreshes.
INTERVAL = 1.0
#: The most running jobs in the table; a longer one would not fit the terminal.
MAX_ROWS = 20


class Display(Watcher, Protocol):
    """Shows the status of jobs."""

    #: The run directories of all jobs.
    directories: Sequence[Path]


@contextmanager
def display(directories: Sequence[Path]) -> Iterator[Display]:
    """A live table in a terminal; elsewhere one line for each job that ends."""
    console = rich_console(sys.stdout)
    if not console.is_terminal:
        yield Lines(directories)
        return
    with Live(console=console, auto_refresh=False) as live:
        table = LiveTable(directories, live)
        yield table
        table.refresh(at_once=True)


class Lines:
    """One line for each job that ends and every half minute, for logs and pipes.

    Args:
        directories: the run directories of all jobs.
    """

    #: Seconds without a line after which one counts the jobs.
    SILENCE = 30.0

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = directories
        self.count = 0
        self.pace = Pace()
        self._statuses = StatusCache()
        self._last = time.monotonic()

    def refresh(self) -> None:
        now = time.monotonic()
        if now - self._last >= self.SILENCE:
            self._last = now
            statuses = {path: self._statuses.read(path) for path in self.directories}
            self.pace.update(statuses, now)
            echo(_counts(statuses, self.pace))

    def ended(self, directory: Path, status: RunStatus) -> None:
        self._last = time.monotonic()
        self.count += 1
        echo(f"[{self.count}/{len(self.directories)}] {directory.name}  {outcome(status)}")


class LiveTable:
    """The running jobs with their progress, the number of jobs in each state, and the time left.

    Args:
        directories: the run directories of all jobs.
        live: where to show the table.
    """

    def __init__(self, directories: Sequence[Path], live: Live) -> None:
        self.directories = directories
        self.live = live
        self.pace = Pace()
        self._statuses = StatusCache()
        self._next_refresh = 0.0

    def refresh(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now < self._next_refresh:
            return
        self.update()
        self.live.refresh()
        # Reading thousands of runs takes a fifth of the time at most.
        self._next_refresh = now + max(INTERVAL, 5 * (time.monotonic() - now))

    def ended(self, directory: Path, status: RunStatus) -> None:
        self.live.console.print(rich_text(f"{directory.name}  {outcome(status)}"))

    def update(self) -> dict[Path, RunStatus]:
        """Read the statuses that have changed, and draw the table."""
        statuses = {path: self._statuses.read(path) for path in self.directories}
        self.pace.update(statuses, time.monotonic())
        self.live.update(table(statuses, self.pace))
        return statuses


class Pace:
    """The speed of jobs, measured between refreshes."""

    def __init__(self) -> None:
        #: The time and step of a job when it was first seen running.
        self._first: dict[Path, tuple[float, int]] = {}
        #: Its latest time and step, and all its steps.
        self._latest: dict[Path, tuple[float, int, int]] = {}
        #: The estimated duration of a whole job.
        self._seconds: dict[Path, float] = {}

    def update(self, statuses: Mapping[Path, RunStatus], now: float) -> None:
        """Record the progress of jobs at a time in seconds."""
        for path, status in statuses.items():
            if status.state == "running" and status.progress:
                step, steps = status.progress["step"], status.progress["steps"]
                self._first.setdefault(path, (now, step))
                self._latest[path] = (now, step, steps)
            elif status.state != "running":
                self._latest.pop(path, None)
                self._first.pop(path, None)

    def left(self, path: Path) -> float | None:
        """Seconds that a running job has left; None before it has made progress."""
        if path not in self._latest:
            return None
        (began, first), (now, step, steps) = self._first[path], self._latest[path]
        if step <= first:
            return None
        per_step = (now - began) / (step - first)
        self._seconds[path] = per_step * steps
        return per_step * (steps - step)

    def left_in_total(self, statuses: Mapping[Path, RunStatus]) -> float | None:
        """Seconds that all jobs have left at the present speed; None if that is unknown."""
        running = [path for path, status in statuses.items() if status.state == "running"]
        lefts = [left for path in running if (left := self.left(path)) is not None]
        if not lefts or len(lefts) < len(running):
            return None
        waiting = sum(status.state == "waiting" for status in statuses.values())
        mean = sum(self._seconds.values()) / len(self._seconds)
        return max(max(lefts), (sum(lefts) + waiting * mean) / len(running))


def table(statuses: Mapping[Path, RunStatus], pace: Pace) -> RenderableType:
    """A table of the running jobs, and below it a line that counts all jobs.

    Args:
        statuses: the status of each run directory.
        pace: the speed of the jobs.
    """
    rows = Table.grid(padding=(0, 1))
    rows.add_column(overflow="fold")  # the only column that is wrapped
    for _ in range(4):
        rows.add_column(no_wrap=True)
    names = _names(tuple(statuses))
    running = [path for path, status in statuses.items() if status.state == "running"]
    for path in running[:MAX_ROWS]:
        progress = statuses[path].progress or {"step": 0, "steps": 1, "metrics": {}}
        known = ((key.removeprefix("validation/"), it) for key, it in progress["metrics"].items())
        steps = f"{progress['step']}/{progress['steps']}" if statuses[path].progress else "starting"
        metrics = "  ".join(f"{name} {with_unit(name, value)}" for name, value in known)
        rows.add_row(
            rich_text(names[path] + _debug_mark(statuses[path])),
            ProgressBar(progress["steps"], progress["step"], width=10),
            *map(rich_text, (steps, metrics, _about(pace.left(path)))),
        )
    more = len(running) - MAX_ROWS
    hidden = f", {more} of those running not shown" if more > 0 else ""
    return Group(rows, rich_text(_counts(statuses, pace) + hidden))


@functools.lru_cache(maxsize=1)
def _names(directories: tuple[Path, ...]) -> Mapping[Path, str]:
    return distinct_names(directories)


def _counts(statuses: Mapping[Path, RunStatus], pace: Pace) -> str:
    """The number of jobs in each state, and the time left."""
    counts = Counter(status.state for status in statuses.values())
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    if left := _about(pace.left_in_total(statuses)):
        parts.append(left)
    return f"{len(statuses)} runs: {', '.join(parts)}"


def distinct_names(directories: Iterable[Path]) -> dict[Path, str]:
    """The overrides in which run directories differ, as in "attention=additive, seed=0".

    >>> one, two = Path("data=g2p,seed=0-1a2b"), Path("data=g2p,seed=1-3c4d")
    >>> list(distinct_names([one, two]).values())
    ['seed=0', 'seed=1']
    """
    parts = {path: path.name.rpartition("-")[0].split(",") for path in directories}
    shared = set.intersection(*map(set, parts.values()))
    return {
        path: ", ".join(it for it in each if it not in shared) or path.name
        for path, each in parts.items()
    }


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 90 else f"{seconds / 3600:.1f} h left"


def outcome(status: RunStatus) -> str:
    """How a run ended, in a few words."""
    if status.state == "finished":
        value = with_unit(status.monitor, status.value)
        return f"finished   validation/{status.monitor} {value}{_debug_mark(status)}"
    return f"{status.state}: {status.error}" if status.error else status.state


def _debug_mark(status: RunStatus) -> str:
    return "  (debug run)" if status.record.get("debug") else ""
