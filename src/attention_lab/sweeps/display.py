"""How the jobs of a sweep stand, shown while they run: by the sweep itself or by who watches."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from attention_lab.printing import echo, rich_console, rich_text
from attention_lab.sweeps.run_status import STATES, RunStatus, read_status

#: Seconds from one look at the files to the next.
EVERY = 1.0
#: A table of more running jobs would scroll away.
MOST_RUNNING = 20


class Display(Protocol):
    """Shows how jobs stand."""

    #: Of all jobs.
    directories: Sequence[Path]

    def refresh(self) -> None:
        """Look again, if it is time to."""

    def ended(self, directory: Path, found: RunStatus) -> None:
        """Say once how a job has ended."""


@contextmanager
def display(directories: Sequence[Path]) -> Iterator[Display]:
    """A table that renews itself in a terminal; elsewhere one line for each job that ends."""
    console = rich_console(sys.stdout)
    if not console.is_terminal:
        yield Lines(directories)
        return
    with Live(console=console, auto_refresh=False) as live:
        table = LiveTable(directories, live)
        yield table
        table.refresh(at_once=True)


class Lines:
    """One line for each job that ends, for logs and pipes.

    Args:
        directories: of all jobs.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = directories
        self.count = 0

    def refresh(self) -> None:
        """There is nothing to renew."""

    def ended(self, directory: Path, found: RunStatus) -> None:
        self.count += 1
        echo(f"[{self.count}/{len(self.directories)}] {directory.name}  {outcome(found)}")


class LiveTable:
    """The running jobs with their progress, how many are in which state, and the time left.

    Args:
        directories: of all jobs.
        live: where to show it.
    """

    def __init__(self, directories: Sequence[Path], live: Live) -> None:
        self.directories = directories
        self.live = live
        self.pace = Pace()
        self._ended: dict[Path, RunStatus] = {}
        self._looked = -EVERY

    def refresh(self, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        self.look()
        self.live.refresh()

    def ended(self, directory: Path, found: RunStatus) -> None:
        self.live.console.print(rich_text(f"{directory.name}  {outcome(found)}"))

    def look(self) -> dict[Path, RunStatus]:
        """Read how all jobs stand, and draw it. Those that have finished stay so."""
        found = {path: self._ended.get(path) or read_status(path) for path in self.directories}
        self._ended |= {path: each for path, each in found.items() if each.state == "finished"}
        self.pace.see(found, time.monotonic())
        self.live.update(table(found, self.pace))
        return found


class Pace:
    """How fast jobs go on, from what was seen of them."""

    def __init__(self) -> None:
        self._first: dict[Path, tuple[float, int]] = {}
        self._latest: dict[Path, tuple[float, int, int]] = {}
        self._seconds: dict[Path, float] = {}

    def see(self, found: dict[Path, RunStatus], now: float) -> None:
        """Take in how jobs stand at a time in seconds."""
        for path, each in found.items():
            if each.state == "running" and each.progress:
                step, steps = each.progress["step"], each.progress["steps"]
                self._first.setdefault(path, (now, step))
                self._latest[path] = (now, step, steps)
            elif each.state != "running":
                self._latest.pop(path, None)
                self._first.pop(path, None)

    def left(self, path: Path) -> float | None:
        """Seconds that a running job has left; None as long as that cannot be told."""
        if path not in self._latest:
            return None
        (began, first), (now, step, steps) = self._first[path], self._latest[path]
        if step <= first:
            return None
        per_step = (now - began) / (step - first)
        self._seconds[path] = per_step * steps
        return per_step * (steps - step)

    def left_of_all(self, found: dict[Path, RunStatus]) -> float | None:
        """Seconds that all jobs have left if they go on as they do; None if that is unknown."""
        running = [path for path, each in found.items() if each.state == "running"]
        lefts = [left for path in running if (left := self.left(path)) is not None]
        if not lefts or len(lefts) < len(running):
            return None
        waiting = sum(each.state == "waiting" for each in found.values())
        whole = sum(self._seconds.values()) / len(self._seconds)
        return max(max(lefts), (sum(lefts) + waiting * whole) / len(running))


def table(found: dict[Path, RunStatus], pace: Pace) -> RenderableType:
    """How jobs stand, as a table of those that run over a line that counts all.

    Args:
        found: the status of each run directory.
        pace: how fast they go.
    """
    rows = Table.grid(padding=(0, 2))
    running = [path for path, each in found.items() if each.state == "running"]
    for path in running[:MOST_RUNNING]:
        progress = found[path].progress or {"step": 0, "steps": 1, "metrics": {}}
        metrics = "  ".join(f"{name} {x:.4f}" for name, x in progress["metrics"].items())
        rows.add_row(
            rich_text(path.name, overflow="ellipsis", no_wrap=True),
            ProgressBar(progress["steps"], progress["step"], width=24),
            f"{progress['step']}/{progress['steps']}" if found[path].progress else "starting",
            rich_text(metrics),
            _about(pace.left(path)),
        )
    counts = Counter(each.state for each in found.values())
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    if len(running) > MOST_RUNNING:
        parts.append(f"{len(running) - MOST_RUNNING} of those running not shown")
    if left := _about(pace.left_of_all(found)):
        parts.append(left)
    return Group(rows, rich_text(f"{len(found)} runs: " + ", ".join(parts)))


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 90 else f"about {seconds / 3600:.1f} h left"


def outcome(found: RunStatus) -> str:
    """How an ended run went, in a few words."""
    if found.state == "finished":
        return f"finished   validation/{found.monitor} {found.value:.4f}"
    return f"{found.state}: {found.error}" if found.error else found.state
