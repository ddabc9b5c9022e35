"""The jobs of a sweep: their run specs, and whether all of them can be built."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from attention_lab.config.components import Config, ConfigError
from attention_lab.config.flatten import flatten
from attention_lab.config.identity import changes_no_result
from attention_lab.config.overrides import key_of
from attention_lab.config.resolve import JobType, RunSpec
from attention_lab.memory import NO_MACHINE, TooLarge
from attention_lab.printing import echo
from attention_lab.tracking.loggers import check_loggers, wandb_options
from attention_lab.tracking.run_config import resolve
from attention_lab.tracking.wandb_logger import server, server_problem, upload_later
from attention_lab.training.build import build, check_training, load_data


def make_job(
    directory: Path,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    shared: Collection[str],
    group: str,
    job_type: JobType = "train",
) -> RunSpec:
    """The run of a composed config, in a directory named after its overrides and its identity.

    Args:
        directory: where the run directory goes.
        config: the composed config.
        overrides: the overrides from which it was composed.
        shared: the keys of overrides in which the jobs do not differ; they are left out of names.
        group: the sweep that the run belongs to.
        job_type: W&B's job type of the run.

    Raises:
        ConfigError: naming the job, if its config cannot work.
    """
    asked = [override for override in overrides if not changes_no_result(key_of(override))]
    differing = [override for override in asked if key_of(override) not in shared]
    name = ",".join(differing)
    readable = re.sub(r"[^\w=.,+-]+", "_", name)[:100] or "run"
    with _name_in_errors(name):
        checked = resolve(config)
        if checked.values["trainer"].get("fast_dev_run"):
            raise ConfigError("trainer.fast_dev_run: records nothing, so it needs a single run")
    place = directory / f"{readable}-{checked.identity}"
    return RunSpec(checked, place, asked, group, differing, job_type)


def existing_runs(directory: Path) -> dict[str, Path]:
    """The run directories in a sweep's directory, by the identities at the end of their names."""
    runs: dict[str, Path] = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        runs.setdefault(path.name.rpartition("-")[2], path)
    return runs


class Sections:
    """Shares the equal sections of configs, so that thousands of them fit into memory."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def share(self, config: Config) -> Config:
        """An equal config, whose sections are those of the first config that has them."""
        return {key: self._known.setdefault(repr(it), it) for key, it in config.items()}


def merge_equal(jobs: Iterable[RunSpec], existing: Mapping[str, Path]) -> Iterator[RunSpec]:
    """Yield the jobs; those whose configs are equal share the directory of the first.

    Args:
        jobs: the jobs.
        existing: :func:`existing_runs` of the sweep's directory. A job with the identity of one of
            them has its directory, whatever the readable name.

    Raises:
        ConfigError: if jobs differ only in keys that change no result; one run would stand for all.
    """
    first: dict[str, RunSpec] = {}
    for job in jobs:
        equal = first.setdefault(job.config.identity, job)
        if equal is not job:
            _check_same_values(job, equal)
        yield replace(job, directory=existing.get(job.config.identity, equal.directory))


def _check_same_values(job: RunSpec, equal: RunSpec) -> None:
    """Raise ConfigError if jobs of one identity differ in other keys than names of options."""
    mine, its = dict(flatten(job.config.record)), dict(flatten(equal.config.record))
    changed = [key for key in {**its, **mine} if mine.get(key) != its.get(key)]
    # Options of different names may be equal.
    if asked := [key for key in changed if not key.startswith("choices.")]:
        raise ConfigError(
            f"{asked[0]}: cannot be swept, as it changes no result; start one sweep for "
            "each value, each with another hydra.sweep.dir"
        )


def build_jobs(jobs: Sequence[RunSpec], run_here: bool = True) -> None:
    """Build every distinct job once, so that a mistake is found before anything runs.

    Args:
        jobs: the jobs.
        run_here: whether they run on this machine. A job that is too large for a login node is
            accepted unless it is too large for any machine.

    Raises:
        ConfigError: naming the job that cannot work.
    """
    for alike in _by_part(jobs, lambda config: config["data"]):
        data = None
        for same_task in _by_part(alike, _without_training):
            built = None
            for job in _distinct(same_task, lambda config: config):
                with _name_in_errors(job.name), _too_large_here(run_here):
                    data = load_data(job.config) if data is None else data
                    if built is None:
                        built = build(job.config, data)
                    else:
                        check_training(job.config, built)
    for job in _distinct(jobs, lambda config: config["logger"]):
        check_loggers(job.config)  # these jobs share a logger config, so no single job is named


@contextmanager
def _too_large_here(run_here: bool) -> Iterator[None]:
    """Ignore that a job is too large for this machine if it runs on another, larger one."""
    try:
        yield
    except ConfigError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, TooLarge):
            cause = cause.__cause__
        if run_here or cause is None or cause.needed > NO_MACHINE:
            raise


@contextmanager
def _name_in_errors(name: str) -> Iterator[None]:
    """Add the job's name to errors of its config."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}".removeprefix(": ")) from error


def check_wandb(jobs: Sequence[RunSpec], directory: Path) -> None:
    """Check W&B's server once for all jobs; if it refuses runs, they log offline from the start.

    Args:
        jobs: the jobs that will start.
        directory: of the sweep.
    """
    jobs = _distinct(jobs, lambda config: config["logger"])
    options = filter(None, (wandb_options(job.config) for job in jobs))
    modes = {each.chosen_mode()[0] for each in options}
    if modes == {"online"} and (said := server_problem(server())) is not None:
        os.environ["WANDB_MODE"] = "offline"
        problem_and_remedy = f"W&B: {said}; logging offline. {upload_later(directory)}"
        echo(f"attention-lab: {problem_and_remedy}", error=True)


def _distinct(jobs: Sequence[RunSpec], part: Callable[[Config], Config]) -> Sequence[RunSpec]:
    """The first job of each set of jobs that agree on a part of their configs."""
    return [alike[0] for alike in _by_part(jobs, part)]


def _by_part(
    jobs: Sequence[RunSpec], part: Callable[[Config], Config]
) -> Collection[Sequence[RunSpec]]:
    """The jobs, in lists that agree on a part of their configs."""
    by_part: dict[str, list[RunSpec]] = {}
    for job in jobs:
        by_part.setdefault(_canonical(part(job.config.record)), []).append(job)
    return by_part.values()


def _without_training(config: Config) -> Config:
    """The sections that determine the data, the model and the task."""
    others = ("optimizer", "scheduler", "parameter_groups", "callbacks", "logger", "choices")
    return {key: value for key, value in config.items() if key not in others}


def _canonical(config: Mapping[str, Any]) -> str:
    """A config as a text, without its seeds: whether it works does not depend on them."""

    def without_seed(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: without_seed(inner) for key, inner in value.items() if key != "seed"}
        return value

    return json.dumps(without_seed(config), sort_keys=True, default=str)
