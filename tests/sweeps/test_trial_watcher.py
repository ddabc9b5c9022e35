"""The watcher of trials: it reports their validations to Optuna and asks hopeless runs to stop."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attention_lab.tracking.metrics_csv import MetricsCSVLogger
from attention_lab.tracking.prune_request import PRUNE
from attention_lab.tracking.run_directory import RunRecord
from tests.runs import unchecked

optuna = pytest.importorskip("optuna", "4.5", reason="needs the extra attention-lab[search]")


class Run:
    """A run of ten steps that is trained by hand."""

    def __init__(self, directory: Path, mode: str = "max") -> None:
        self.directory, self.mode = directory, mode
        self.record = RunRecord(unchecked({"seed": 0}, directory))
        self.metrics = MetricsCSVLogger(directory / "metrics.csv")
        self.step = 0

    def validate(self, *values: float) -> None:
        for value in values:
            self.step += 1
            self.metrics.log_metrics({"train/loss": 1.0}, step=self.step)
            self.metrics.log_metrics({"validation/accuracy": value}, step=self.step)
            self.metrics.save()
            self.record.progress(self.step, 10, {"validation/accuracy": value}, self.mode)

    def finish(self) -> None:
        last = self.record._status["progress"]["metrics"]["validation/accuracy"]
        result: Any = {
            "monitor": "accuracy",
            "mode": self.mode,
            "validation": {"accuracy": last},
        }
        self.record.finish(result)
        self.record.close()

    @property
    def is_asked_to_stop(self) -> bool:
        return (self.directory / PRUNE).exists()


class _Pruned(SystemExit):
    run_status = "pruned"


Watched = Callable[..., tuple[list[Run], Any, Any]]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Makes running trials; returns their runs, their watcher and their study."""
    runs: list[Run] = []

    def make(
        number: int, pruner: Any, mode: str = "max", storage: Any = None
    ) -> tuple[list[Run], Any, Any]:
        from attention_lab.sweeps.trial_watcher import TrialWatcher

        study = optuna.create_study(pruner=pruner, storage=storage)
        trials = [study.ask({}) for _ in range(number)]
        runs.extend(Run(tmp_path / str(i), mode) for i in range(number))
        return runs, TrialWatcher(trials, [run.directory for run in runs]), study

    yield make
    for run in runs:
        run.record.close()


def median() -> Any:
    return optuna.pruners.MedianPruner(n_startup_trials=1)


def test_a_trial_worse_than_the_median_is_pruned_while_another_continues(watched: Watched) -> None:
    (best, good, bad), watcher, study = watched(3, median())
    best.validate(0.5, 0.6, 0.7)
    best.finish()
    good.validate(0.5, 0.8)
    bad.validate(0.6, 0.1)
    watcher.update()
    assert [run.is_asked_to_stop for run in (best, good, bad)] == [False, False, False]
    bad.validate(0.2)
    watcher.update()
    reason = "MedianPruner: validation/accuracy 20.00 % at validation 3"
    assert (bad.directory / PRUNE).read_text() == reason + "\n"
    assert not good.is_asked_to_stop

    bad.record.end(_Pruned(0))
    bad.record.close()
    assert not bad.is_asked_to_stop  # the run has removed the request
    watcher.update()
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "RUNNING", "PRUNED"]
    assert study.trials[0].value == -0.7
    assert study.trials[2].intermediate_values == {1: -0.6, 2: -0.1, 3: -0.2}
    assert study.best_trial.number == 0


def test_a_pruning_between_two_reads_is_not_lost(watched: Watched) -> None:
    """Successive halving decides at validations 1, 2, 4, …, and only once at each."""
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    (best, bad), watcher, _ = watched(2, halving)
    best.validate(0.9)
    watcher.update()
    bad.validate(0.1, 0.1, 0.1)
    watcher.update()
    assert [run.is_asked_to_stop for run in (best, bad)] == [False, True]
    reason = "SuccessiveHalvingPruner: validation/accuracy 10.00 % at validation 1"
    assert (bad.directory / PRUNE).read_text() == reason + "\n"


def test_a_metric_that_is_better_if_lower_keeps_its_sign(watched: Watched) -> None:
    (run,), watcher, study = watched(1, optuna.pruners.NopPruner(), "min")
    run.validate(0.5)
    watcher.update()
    run.validate(0.25)
    watcher.update()
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.25}


def test_a_run_at_its_last_step_is_not_pruned(watched: Watched) -> None:
    (best, late), watcher, _ = watched(2, median())
    best.validate(*[0.9] * 10)
    best.finish()
    late.validate(*[0.1] * 10)
    watcher.update()
    assert not late.is_asked_to_stop


def test_a_request_that_comes_after_the_end_is_removed(watched: Watched) -> None:
    (run,), watcher, study = watched(1, median())
    run.validate(0.5)
    run.finish()
    (run.directory / PRUNE).write_text("too late\n")
    watcher.update()
    assert not run.is_asked_to_stop
    assert study.trials[0].state.name == "COMPLETE"


@pytest.mark.filterwarnings("error")  # Optuna warns of a step that is reported twice
def test_an_interrupted_trial_continues_its_validations(watched: Watched) -> None:
    """A database still holds what was reported before."""
    from attention_lab.sweeps.trial_watcher import TrialWatcher

    (run,), watcher, study = watched(1, optuna.pruners.NopPruner())
    run.validate(0.5, 0.6)
    watcher.update()
    (run.directory / "metrics.csv").unlink()
    run.metrics, run.step = MetricsCSVLogger(run.directory / "metrics.csv"), 0
    trial = optuna.trial.Trial(study, study.trials[0]._trial_id)
    again = TrialWatcher([trial], [run.directory])
    run.validate(0.5)
    again.update()  # resumed from a checkpoint before the second validation
    run.validate(0.6, 0.7)
    again.update()
    assert study.trials[0].intermediate_values == {1: -0.5, 2: -0.6, 3: -0.7}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_trial_whose_validation_is_not_finite_is_pruned(watched: Watched, value: float) -> None:
    (best, bad), watcher, study = watched(2, median())
    best.validate(0.5)
    best.finish()
    bad.validate(value)
    watcher.update()
    assert bad.is_asked_to_stop
    (reported,) = study.trials[1].intermediate_values.values()
    assert reported != reported  # NaN


@pytest.mark.parametrize(
    ("make", "alone", "after_a_value"),
    [
        (lambda: optuna.pruners.ThresholdPruner(upper=100.0), True, True),
        (lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=2), True, True),
        (lambda: optuna.pruners.HyperbandPruner(min_resource=2, max_resource=2), True, True),
        (lambda: median(), True, False),
        (lambda: optuna.pruners.PercentilePruner(50.0, n_startup_trials=1), True, False),
        (lambda: optuna.pruners.PatientPruner(median(), 0), False, False),
        (lambda: optuna.pruners.WilcoxonPruner(), False, False),
    ],
)
@pytest.mark.filterwarnings("ignore", "error:All-NaN")  # Optuna warns of NaN, NumPy must not
def test_pruners_treat_nan_as_the_watcher_says(
    watched: Watched, make: Callable[[], Any], alone: bool, after_a_value: bool
) -> None:
    (other, only_nan, mixed), watcher, _ = watched(3, make())
    other.validate(0.5, 0.5)
    other.finish()
    only_nan.validate(float("nan"), float("nan"))
    mixed.validate(0.6, float("nan"))
    watcher.update()
    assert (only_nan.is_asked_to_stop, mixed.is_asked_to_stop) == (alone, after_a_value)


def test_a_locked_database_delays_reports_and_loses_none(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "study.db"
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{database}", engine_kwargs={"connect_args": {"timeout": 0.01}}
    )
    (best, run), watcher, study = watched(2, median(), storage=storage)
    best.validate(0.5)
    best.finish()
    run.validate(0.6, 0.7)
    with sqlite3.connect(database) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            watcher.refresh()
            watcher._refreshed = float("-inf")
    other.close()
    says = "hydra.sweeper.storage: (sqlite3.OperationalError) database is locked; trying again\n"
    assert capsys.readouterr().err == says
    watcher.refresh()
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "RUNNING"]
    assert study.trials[1].intermediate_values == {1: -0.6, 2: -0.7}
