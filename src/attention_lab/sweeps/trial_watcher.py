"""Follows the running trials of a search: their validations go to Optuna, which may prune them."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState

from attention_lab.data.core.metric_info import with_unit
from attention_lab.printing import echo
from attention_lab.reports.runs import read_column
from attention_lab.sweeps.display import INTERVAL
from attention_lab.sweeps.search_metric import search_metric
from attention_lab.tracking.prune_request import end_request, request_pruning
from attention_lab.tracking.run_status import ENDED, RunStatus, read_status


class TrialWatcher:
    """A watcher that reports each validation of a trial as a step of Optuna.

    If the study's pruner then prunes a running trial, its run is asked to stop. The result of a
    trial is recorded as soon as its run has ended, because other trials are compared with it.

    Args:
        trials: of one batch.
        directories: their run directories, in the same order.
    """

    def __init__(self, trials: Sequence[Trial], directories: Sequence[Path]) -> None:
        self._running = [_RunningTrial(*each) for each in zip(trials, directories, strict=True)]
        self._refreshed = float("-inf")
        self._has_warned = False

    def refresh(self) -> None:
        """Call :meth:`update`, at most once in ``INTERVAL`` seconds."""
        if time.monotonic() - self._refreshed >= INTERVAL:
            self._refreshed = time.monotonic()
            try:
                self.update()
            except StorageInternalError as error:  # such as: database is locked
                self._warn(error)

    def ended(self, directory: Path, status: RunStatus) -> None:
        """Do nothing: :meth:`update` reads how runs have ended."""

    def update(self) -> None:
        """Report the new validations of all trials that have no result yet.

        Raises:
            StorageInternalError: if the database cannot be used; the next call reports the rest.
        """
        for each in list(self._running):
            if each.update():
                self._running.remove(each)

    def _warn(self, error: StorageInternalError) -> None:
        """Print once that validations are not reported for now; the jobs are not disturbed."""
        if not self._has_warned:
            self._has_warned = True
            echo(f"hydra.sweeper.storage: {first_line(error)}; trying again", error=True)


class _RunningTrial:
    """A trial without a result, and the validations of its run that were reported."""

    def __init__(self, trial: Trial, directory: Path) -> None:
        self.trial, self.directory = trial, directory
        known = trial.study.get_trials(deepcopy=False)[trial.number]
        self._reported = len(known.intermediate_values)
        #: The time at which ``metrics.csv`` was changed before it was last read to its end.
        self._read = 0
        #: Why the trial is pruned, until its run is asked to stop.
        self._reason: str | None = None

    def update(self) -> bool:
        """Report new validations; returns whether the trial has its result."""
        status = read_status(self.directory)
        self._reason = self._reason or self._report(status)
        if status.state == "running":
            if self._reason and not _is_at_its_end(status):
                request_pruning(self.directory, self._reason)
                self._reason = None
            return False
        if status.state in ENDED:
            end_request(self.directory)  # it may have come after the run's end
        if status.state == "pruned":
            self.trial.study.tell(self.trial, state=TrialState.PRUNED)
            return True
        if (value := search_metric(self.directory)) is not None:
            self.trial.study.tell(self.trial, value, TrialState.COMPLETE)
            return True
        return False

    def _report(self, status: RunStatus) -> str | None:
        """Report new validations; at one that prunes the trial, stop and return the reason."""
        progress, metrics = status.progress or {}, self.directory / "metrics.csv"
        monitor = next(iter(progress.get("metrics", ())), None)
        changed = metrics.stat().st_mtime_ns if metrics.exists() else 0
        if monitor is None or changed == self._read:
            return None
        # NaN is reported, since pruners know it. Optuna 5's threshold pruner prunes at a NaN, and
        # successive halving and Hyperband at one that is the last validation of a rung. The median
        # and percentile pruners ignore NaN, but prune a trial that has nothing else. The patient
        # pruner ignores NaN. The Wilcoxon pruner never prunes a trial with a NaN.
        values = list(read_column(metrics, monitor, with_nan=True).values())
        sign = -1 if progress.get("mode") == "max" else 1
        for value in values[self._reported :]:
            self.trial.report(sign * value, self._reported + 1)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # of NumPy
                is_hopeless = self.trial.should_prune()
            self._reported += 1
            if is_hopeless:
                shown = with_unit(monitor.removeprefix("validation/"), value)
                pruner = type(self.trial.study.pruner).__name__
                return f"{pruner}: {monitor} {shown} at validation {self._reported}"
        self._read = changed
        return None


def _is_at_its_end(status: RunStatus) -> bool:
    """Whether a run has trained all its steps, so that stopping it would save no time."""
    progress = status.progress or {"step": 0, "steps": 1}
    return bool(progress["step"] >= progress["steps"])


def first_line(error: Exception) -> str:
    """The first line of an error of Optuna, or of the database error that caused it."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else None
    return str(cause or error).partition("\n")[0] or type(error).__name__
