"""Deletes the checkpoints that a sweep does not keep, as soon as their runs have ended."""

import math
from collections.abc import Callable
from pathlib import Path

from attention_lab.printing import counted, echo
from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_status import RunStatus, read_status
from attention_lab.training.checkpoint.callback import BEST, LAST, PREVIOUS


class KeptCheckpoints:
    """A watcher that deletes checkpoints of finished and pruned runs.

    Runs that may resume, and runs that a process still has locked, keep theirs.

    Args:
        keep: ``sweep.keep``; "best" keeps the checkpoints of the best run of each group by
            validation, "none" keeps none, "all" deletes none.
        group: returns the group of a run directory, or None if its checkpoints are not kept.
    """

    def __init__(self, keep: str, group: Callable[[Path], str | None]) -> None:
        self.keep, self.group = keep, group
        #: The rank and the directory of the best run of each group so far.
        self._best: dict[str, tuple[float, Path]] = {}
        #: Runs that were still locked when they had ended.
        self._locked: list[Path] = []

    def refresh(self) -> None:
        """Delete the checkpoints of runs that are no longer locked."""
        locked, self._locked = self._locked, []
        for directory in locked:
            self.ended(directory, read_status(directory))

    def close(self) -> None:
        """Delete what can be deleted when the jobs have ended, and name what stays."""
        self.refresh()
        if self._locked:
            runs = counted(len(self._locked), "run")
            echo(
                f"{runs} still locked, with checkpoints; the same command deletes them", error=True
            )

    def ended(self, directory: Path, status: RunStatus) -> None:
        """Delete the checkpoints of the run, or of the best run so far if this run is better."""
        if self.keep == "all" or status.state not in ("finished", "pruned"):
            return
        if is_locked(directory):  # a logger may still upload them
            self._locked.append(directory)
            return
        group = self.group(directory)
        if self.keep == "none" or status.state == "pruned" or group is None:
            _delete(directory)
            return
        rank = _rank(status)
        best, other = self._best.get(group, (math.inf, directory))
        if rank < best or other == directory:
            self._best[group] = rank, directory
        if other != directory:
            _delete(other if rank < best else directory)


def _delete(directory: Path) -> None:
    """Delete the checkpoints of a run, unless their directory is a symbolic link."""
    folder = directory / "checkpoints"
    if not folder.is_symlink():
        for name in (BEST, LAST, PREVIOUS):
            (folder / name).unlink(missing_ok=True)


def _rank(status: RunStatus) -> float:
    """The monitored validation metric of a finished run, so that the lowest is best."""
    if not math.isfinite(status.value):
        return math.inf
    return status.value if status.mode == "min" else -status.value
