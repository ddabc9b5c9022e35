"""The jobs of a sweep: what each runs, where, and whether all of them can work."""

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_lab.config.components import ConfigError, create
from attention_lab.config.environment_variables import with_environment
from attention_lab.config.identity import identity, is_immaterial
from attention_lab.config.validate import check, check_seed
from attention_lab.printing import echo
from attention_lab.tracking.wandb_logger import LoggerOptions, problem, server, upload_later
from attention_lab.training.build import build, check_logger, from_anywhere, load_data


@dataclass(frozen=True)
class Job:
    """One run of a sweep: where it goes, its resolved config, and what was asked for."""

    directory: Path
    config: Mapping[str, Any]
    overrides: Sequence[str]
    #: Those of the overrides in which the jobs of the sweep differ; "" if there are none.
    name: str
    #: The sweep that it belongs to.
    group: str


def make_job(
    directory: Path,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    shared: Collection[str],
    group: str,
) -> Job:
    """The job of a config, in a run directory that carries a readable name and its hash.

    A directory of that hash which is there already is the job's, whatever its readable name.

    Args:
        directory: where the run directory goes.
        config: the resolved config.
        overrides: what it was composed with.
        shared: the keys of those in which the jobs do not differ, which no name needs.
        group: the sweep that it belongs to.
    """
    config = from_anywhere(config)
    asked = [override for override in overrides if not _is_aside(key_of(override))]
    name = ",".join(override for override in asked if key_of(override) not in shared)
    readable = re.sub(r"[^\w=.,+-]+", "_", name)[:100] or "run"
    hashed = identity(config)
    known = next(directory.glob(f"*-{hashed}"), directory / f"{readable}-{hashed}")
    return Job(known, config, asked, name, group)


def key_of(override: str) -> str:
    """The key of an override: "attention" of "+attention=additive"."""
    return override.lstrip("+~").partition("=")[0]


def _is_aside(key: str) -> bool:
    """Whether an override is about something other than what the run computes."""
    return key.startswith(("hydra.", "hydra/")) or is_immaterial(key)


def check_jobs(jobs: Sequence[Job]) -> None:
    """Build every distinct job once, so that a mistake is found before anything runs.

    Raises:
        ConfigError: naming the job that cannot work.
    """
    data_by_config: dict[str, Any] = {}
    built: set[str] = set()
    for job in jobs:
        without_seed = _canonical(job.config)
        try:
            check_seed(job.config)
            if without_seed in built:
                continue
            built.add(without_seed)
            config = with_environment(job.config)
            check(config)
            key = _canonical(config["data"])
            if key not in data_by_config:
                data_by_config[key] = load_data(config)
            build(config, data_by_config[key])
        except ConfigError as error:
            raise ConfigError(f"{job.name}: {error}".removeprefix(": ")) from error
    for job in _by_logger(jobs):  # a mistake there is the same in all of them
        check_logger(job.config)


def check_wandb(jobs: Sequence[Job], directory: Path) -> None:
    """Check W&B's server once for all jobs; if it takes no runs, they log offline from the start.

    Args:
        jobs: the jobs that will start.
        directory: of the sweep.
    """
    kinds = (LoggerOptions,)
    modes = {
        create(with_environment(job.config)["logger"], kinds).mode()[0] for job in _by_logger(jobs)
    }
    if modes == {"online"} and (said := problem(server())) is not None:
        os.environ["WANDB_MODE"] = "offline"
        words = f"W&B: {said}; logging offline. {upload_later(directory)}"
        echo(f"attention-lab: {words}", error=True)


def _by_logger(jobs: Sequence[Job]) -> Iterable[Job]:
    """One job for each way of logging."""
    return {_canonical(job.config["logger"]): job for job in jobs}.values()


def _canonical(config: Mapping[str, Any]) -> str:
    """A config without its seeds, which change nothing about whether it can work."""

    def without_seed(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: without_seed(inner) for key, inner in value.items() if key != "seed"}
        return value

    return json.dumps(without_seed(config), sort_keys=True, default=str)
