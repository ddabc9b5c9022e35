"""A search: Optuna draws the settings of trials, which are jobs of a sweep."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

import optuna
import yaml
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.utils import JobReturn
from numpy.random import SeedSequence
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pydantic import PositiveInt
from sqlalchemy.exc import SQLAlchemyError

from attention_lab.atomic_write import write_atomically
from attention_lab.config.components import ConfigError, NodeError, check_node, create
from attention_lab.sweeps.plugin_options import check_types
from attention_lab.sweeps.sweep_options import spelt
from attention_lab.sweeps.trial_watcher import TrialWatcher, first_line
from attention_lab.sweeps.watchers import SweepStopped, Watch

#: The file with the best trial, in the sweep's directory.
RESULTS = "optimization_results.yaml"
#: The keys of the sampler and of the pruner.
SAMPLER, PRUNER = "hydra.sweeper.sampler", "hydra.sweeper.pruner"
#: The seconds for which an operation on the database waits while another process has it locked.
LOCK_TIMEOUT = 20
#: The attribute of a trial that names the directory of its sweep.
SWEEP = "sweep"
#: The attribute of a trial that holds the number of the failed trial whose second run it records.
RETRY_OF = "retry_of"

#: Runs jobs, given the overrides of each and, possibly, a function that makes their watcher.
Launch = Callable[[list[list[str]], Watch | None], list[JobReturn]]


@dataclass(frozen=True)
class SearchOptions:
    """The options of ``hydra/sweeper=optuna``; ``conf/hydra/sweeper/optuna.yaml`` explains them.

    Raises:
        ConfigError: if a value is invalid.
    """

    sampler: dict[str, Any]
    pruner: dict[str, Any]
    n_trials: PositiveInt
    n_jobs: PositiveInt
    direction: str = "minimize"
    storage: str | None = None
    study_name: str | None = None
    params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_types(self, "hydra.sweeper")


class Search:
    """The trials of one sweep's directory, in a study that may hold other trials, too.

    A trial depends on the seed, on its number and on the results before its batch, so the same
    command draws the same trials. Those in a database that failed or were interrupted are launched
    again; the sweep decides which failed runs it runs again.

    Args:
        options: of the search.
        overrides: those of the command, with the distributions to draw from.
        directory: of the sweep.

    Raises:
        ConfigError: if a value is invalid, or the database cannot be opened.
    """

    def __init__(
        self, options: SearchOptions, overrides: Sequence[Override], directory: Path
    ) -> None:
        self.options, self.directory = options, directory
        by_key = {override.get_key_element(): override for override in overrides}
        self.space = {k: distribution(o) for k, o in by_key.items() if o.is_sweep_override()}
        self.fixed = [
            f"{key}={override.get_value_element_as_str()}"
            for key, override in by_key.items()
            if key not in self.space
        ]
        self._grid = self._is_grid() and {k: _values(k, d) for k, d in self.space.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = Path((options.storage or "").removeprefix("sqlite:///"))
        #: The database, if this search creates it and no trial has run yet.
        self._new_database = file if options.storage and not file.exists() else None
        check_node(SAMPLER, options.sampler, BaseSampler, given=("search_space",))
        check_node(PRUNER, options.pruner, BasePruner)
        self._rehearse()  # raises an error before the database is created
        self.study = self._study()

    def run(self, launch: Launch) -> None:
        """Launch trials until there are ``n_trials``, and write the best to a file.

        Raises:
            ValueError: if a trial cannot work; a new database is removed then.
            SweepStopped: if the database cannot be used.
        """
        try:
            self._run(launch)
        except StorageInternalError as error:
            raise SweepStopped(
                f"hydra.sweeper.storage={self.options.storage}: {first_line(error)}; all runs are "
                "kept, and the same command continues the search"
            ) from error

    def _run(self, launch: Launch) -> None:
        self._launch_failed(launch)
        while trials := self._next_batch():
            try:
                returns = self._launch(launch, trials)
            except ValueError:
                if self._new_database is not None:
                    self._new_database.unlink()
                raise
            self._new_database = None
            self._tell(trials, returns)
        with suppress(ValueError):  # no trial has a result
            best = self.study.best_trial
            found = {"name": "optuna", "best_params": best.params, "best_value": best.value}
            write_atomically(self.directory / RESULTS, yaml.safe_dump(found, sort_keys=False))

    def _study(self) -> optuna.Study:
        name, storage = self.options.study_name or self.directory.name, self.options.storage
        waiting = {"connect_args": {"timeout": LOCK_TIMEOUT}}
        try:
            study = optuna.create_study(
                study_name=name,
                storage=RDBStorage(storage, engine_kwargs=waiting) if storage else None,
                load_if_exists=True,
                pruner=self._pruner(),
            )
        except (SQLAlchemyError, OptunaError, RuntimeError) as error:
            raise ConfigError(f"hydra.sweeper.storage={storage}: {first_line(error)}") from error
        for trial in self._own(study):
            if trial.params.keys() != self.space.keys():
                raise ConfigError(
                    f"hydra.sweeper.study_name={name}: holds trials of this sweep with another "
                    "search space; use another hydra.sweep.dir"
                )
        return study

    def _launch_failed(self, launch: Launch) -> None:
        """Launch the trials that failed in an earlier command, and record those that have a result.

        Optuna cannot change a failed trial, so the result is added as a new trial.
        """
        own = self._own(self.study)
        retried = {trial.user_attrs.get(RETRY_OF) for trial in own}
        failed = [it for it in own if it.state == TrialState.FAIL and it.number not in retried]
        returns = launch([self._overrides(trial) for trial in failed], None) if failed else []
        for trial, returned in zip(failed, returns, strict=True):
            if returned.return_value is not None:
                retry = create_trial(
                    value=returned.return_value,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={**trial.user_attrs, RETRY_OF: trial.number},
                )
                self.study.add_trial(retry)

    def _own(self, study: optuna.Study) -> list[FrozenTrial]:
        """The trials of this sweep."""
        place = str(self.directory)
        return [trial for trial in study.trials if trial.user_attrs.get(SWEEP) == place]

    def _launch(self, launch: Launch, trials: Sequence[Trial]) -> list[JobReturn]:
        """Launch trials; those that finish or are pruned meanwhile are recorded in the study."""
        watcher: TrialWatcher | None = None

        def watch(directories: Sequence[Path]) -> TrialWatcher:
            nonlocal watcher
            watcher = TrialWatcher(trials, directories)
            return watcher

        returns = launch([self._overrides(trial) for trial in trials], watch)
        if watcher is not None:
            watcher.update()
        return returns

    def _next_batch(self) -> list[Trial]:
        """The interrupted trials, else new ones; none if there are enough."""
        own = _drawn(self._own(self.study))
        if interrupted := [trial for trial in own if not trial.state.is_finished()]:
            # Optuna has no public way to continue a trial that was interrupted.
            return [Trial(self.study, trial._trial_id) for trial in interrupted]
        limit = self.options.n_trials
        if self._grid:
            limit = min(limit, prod(map(len, self._grid.values())))
        self.study.sampler = self._sampler(len(_drawn(self.study.trials)))
        trials = [self._ask() for _ in range(min(self.options.n_jobs, limit - len(own)))]
        if self._grid:  # it would stop a loop of Optuna's after its last point; there is none
            self.study.sampler = RandomSampler()
        return trials

    def _ask(self) -> Trial:
        trial = self.study.ask(self.space)
        trial.set_user_attr(SWEEP, str(self.directory))
        return trial

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler for the batch that begins with this trial of the study."""
        given = dict(self.options.sampler)
        space = {"search_space": self._grid} if self._grid else {}
        if not self._grid and given.get("seed") is not None:
            # Else a resumed search would draw its first trials again.
            given["seed"] = int(SeedSequence([given["seed"], number]).generate_state(1)[0])
        return cast(BaseSampler, _created(SAMPLER, given, BaseSampler, **space))

    def _pruner(self) -> BasePruner:
        factor = self.options.pruner.get("reduction_factor")
        if isinstance(factor, int) and factor < 2:  # Hyperband divides by its logarithm
            raise ConfigError(f"{PRUNER}.reduction_factor={factor}: must be at least 2")
        return cast(BasePruner, _created(PRUNER, self.options.pruner, BasePruner))

    def _rehearse(self) -> None:
        """Draw and prune in a study of made-up trials: Optuna checks some values only then.

        Raises:
            ConfigError: if a value of the sampler or of the pruner is invalid.
        """
        study = optuna.create_study(sampler=RandomSampler(seed=0), pruner=self._pruner())
        for number in range(min(self.options.n_trials, 1000)):
            trial = study.ask(self.space)
            trial.report(number, 1)
            study.tell(trial, number)
        key = SAMPLER
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the search itself warns
            study.sampler = self._sampler(0)
            try:
                trial = study.ask(self.space)
                key = PRUNER
                for step in (1, 2):
                    trial.report(0.0, step)
                    trial.should_prune()
            except Exception as error:  # the sampler or pruner may be a user's
                raise ConfigError(f"{key}: {first_line(error)}") from error

    def _is_grid(self) -> bool:
        return str(self.options.sampler.get("_target_")).endswith(".GridSampler")

    def _overrides(self, trial: Trial | FrozenTrial) -> list[str]:
        return [*(f"{key}={spelt(value)}" for key, value in trial.params.items()), *self.fixed]

    def _tell(self, trials: Sequence[Trial], returns: Sequence[JobReturn]) -> None:
        """Record the results of trials that are not recorded yet."""
        recorded = self.study.get_trials(deepcopy=False)
        for trial, returned in zip(trials, returns, strict=True):
            if not recorded[trial.number].state.is_finished():
                value = returned.return_value
                state = TrialState.FAIL if value is None else TrialState.COMPLETE
                self.study.tell(trial, value, state)


def _created(key: str, node: Mapping[str, Any], kind: type, **given: Any) -> Any:
    """The object of a config node; an invalid value of it raises ConfigError with the key."""
    try:
        return create(node, (kind,), **given)
    except (NodeError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from None


def _drawn(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without the second runs of failed ones."""
    return [trial for trial in trials if RETRY_OF not in trial.user_attrs]


def distribution(override: Override) -> BaseDistribution:
    """The distribution of an override with several values or an interval.

    Raises:
        ConfigError: if it is empty.
    """
    try:
        return _parsed(override)
    except ValueError as error:
        raise ConfigError(f"{override.input_line}: {error}") from None


def _parsed(override: Override) -> BaseDistribution:
    value = override.value()
    if isinstance(value, IntervalSweep):
        start, end, is_log = value.start, value.end, "log" in value.tags
        if isinstance(start, int) and isinstance(end, int):
            return IntDistribution(start, end, log=is_log)
        return FloatDistribution(float(start or 0), float(end or 0), log=is_log)
    values: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
    if isinstance(value, RangeSweep) and not value.shuffle and len(values) > 1:
        step: Any = value.step
        is_whole = all(isinstance(each, int) for each in values)
        ends = min(values), max(values)
        if is_whole:
            return IntDistribution(*ends, step=abs(step))
        return FloatDistribution(*ends, step=abs(step))
    return CategoricalDistribution(values)


def _values(key: str, distribution: BaseDistribution) -> list[Any]:
    """The values of a distribution, for a grid."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if (
        isinstance(distribution, IntDistribution | FloatDistribution)
        and distribution.step
        and not distribution.log
    ):
        number = round((distribution.high - distribution.low) / distribution.step)
        return [distribution.low + i * distribution.step for i in range(number + 1)]
    raise ConfigError(f"{key}: a grid needs values, no interval; use choice() or range()")
