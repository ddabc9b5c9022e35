"""Watchers of a sweep's jobs: an executor calls them while the jobs run and when they end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from attention_lab.tracking.run_status import RunStatus


class Watcher(Protocol):
    """Follows the jobs of a sweep."""

    def refresh(self) -> None:
        """Called at least once a second while jobs run."""

    def ended(self, directory: Path, status: RunStatus) -> None:
        """Called once for each job that has ended."""


#: Makes a watcher of the jobs in these run directories.
Watch = Callable[[Sequence[Path]], Watcher]


class Watchers:
    """Several watchers as one.

    Args:
        watchers: called in this order.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def refresh(self) -> None:
        for each in self.watchers:
            each.refresh()

    def ended(self, directory: Path, status: RunStatus) -> None:
        for each in self.watchers:
            each.ended(directory, status)


class SweepStopped(RuntimeError):
    """A sweep stops before its end. The message is one line, for the user."""


class TooManyFailures(SweepStopped):
    """So many jobs have failed or diverged that the sweep stops."""


class FailureLimit:
    """Stops a sweep when too many of its jobs have failed or diverged.

    Args:
        limit: ``sweep.max_failures``; None means no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._failures = 0

    def refresh(self) -> None:
        """Do nothing: jobs are counted when they end."""

    def ended(self, directory: Path, status: RunStatus) -> None:
        """Count the job if it has failed or diverged.

        Raises:
            TooManyFailures: if the limit is reached; the executor then stops the other jobs.
        """
        self._failures += status.state in ("failed", "diverged")
        if self.limit is not None and self._failures >= self.limit:
            raise TooManyFailures(
                f"sweep.max_failures={self.limit}: stopped, the last to fail is {directory}, see "
                "log.txt there; the same command runs the rest"
            )
