"""Follows the running trials of a search: their validations go to Optuna, which may prune them."""

import time
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import Trial, TrialState

from attention_lab.data.core.metric_info import with_unit
from attention_lab.reports.runs import read_column
from attention_lab.sweeps.display import INTERVAL
from attention_lab.sweeps.search_metric import search_metric
from attention_lab.tracking.prune_request import end_request, request_pruning
from attention_lab.tracking.run_status import RunStatus, read_status


class TrialWatcher:
    """A watcher that reports each validation of a trial as a step of Optuna.

    If the study's pruner then prunes a running trial, its run is asked to stop. Trials whose runs
    have finished or stopped are recorded at once, as the others are compared with them.

    Args:
        trials: of one batch.
        directories: their run directories, in the same order.
    """

    def __init__(self, trials: Sequence[Trial], directories: Sequence[Path]) -> None:
        self._running = [_RunningTrial(*each) for each in zip(trials, directories, strict=True)]
        self._refreshed = float("-inf")

    def refresh(self) -> None:
        """Call :meth:`update` if it is time to."""
        if time.monotonic() - self._refreshed >= INTERVAL:
            self._refreshed = time.monotonic()
            self.update()

    def ended(self, directory: Path, status: RunStatus) -> None:
        """Do nothing: :meth:`update` reads how runs have ended."""

    def update(self) -> None:
        """Report the new validations of all trials that have no result yet."""
        self._running = [each for each in self._running if not each.update()]


class _RunningTrial:
    """A trial, and how much of its run was reported."""

    def __init__(self, trial: Trial, directory: Path) -> None:
        self.trial, self.directory = trial, directory
        known = trial.study.get_trials(deepcopy=False)[trial.number]
        self._reported = len(known.intermediate_values)
        #: The time of the last change to ``metrics.csv`` when it was read.
        self._read = 0

    def update(self) -> bool:
        """Report new validations; returns whether the trial has its result."""
        status = read_status(self.directory)
        reason = self._report(status)
        study = self.trial.study
        if status.state == "pruned":
            study.tell(self.trial, state=TrialState.PRUNED)
        elif (value := search_metric(self.directory)) is not None:
            study.tell(self.trial, value, TrialState.COMPLETE)
        else:
            if reason is not None and status.state == "running" and not _is_at_its_end(status):
                request_pruning(self.directory, reason)
            return False
        end_request(self.directory)  # it may have come after the run's end
        return True

    def _report(self, status: RunStatus) -> str | None:
        """Report new validations; returns why the trial is pruned at the last of them, if it is."""
        progress, metrics = status.progress or {}, self.directory / "metrics.csv"
        monitor = next(iter(progress.get("metrics", ())), None)
        changed = metrics.stat().st_mtime_ns if metrics.exists() else 0
        if monitor is None or changed == self._read:
            return None
        self._read = changed
        values = list(read_column(metrics, monitor).values())
        sign = -1 if progress.get("mode") == "max" else 1
        is_pruned = False
        for value in values[self._reported :]:
            self._reported += 1
            self.trial.report(sign * value, self._reported)
            is_pruned = self.trial.should_prune()  # some pruners need to see every step
        if not is_pruned:
            return None
        shown = with_unit(monitor.removeprefix("validation/"), values[-1])
        pruner = type(self.trial.study.pruner).__name__
        return f"{pruner}: {monitor} {shown} at validation {self._reported}"


def _is_at_its_end(status: RunStatus) -> bool:
    """Whether a run has trained all its steps, so that there is nothing to save by stopping it."""
    progress = status.progress or {"step": 0, "steps": 1}
    return bool(progress["step"] >= progress["steps"])
