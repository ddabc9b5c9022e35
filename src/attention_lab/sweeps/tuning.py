"""Tuning: choose one setting for each group of a sweep, on validation and from the same grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from attention_lab.config.components import ConfigError
from attention_lab.config.overrides import key_of
from attention_lab.sweeps.sweep_options import SweepOptions
from attention_lab.tracking.run_status import RunStatus


@dataclass(frozen=True)
class Choice:
    """The value chosen for a group, and the scores of all values."""

    #: The overrides of the group's jobs, without seed and without the tuned key.
    overrides: list[str]
    #: The best value, as in an override; None if every value failed.
    value: str | None
    #: For each value the mean of the monitored validation metric over the seeds; None if a run
    #: has no result.
    scores: dict[str, float | None]


def groups_of(jobs: Sequence[Sequence[str]], options: SweepOptions) -> list[list[str]]:
    """The groups of jobs that differ only in their seed, as overrides without the seed.

    Raises:
        ConfigError: if a job sets the key to tune.
    """
    for overrides in jobs:
        for override in overrides:
            if key_of(override) == options.tune:
                raise ConfigError(
                    f"{override}: sweep.tune sets {options.tune}, too; leave one of them out"
                )
    groups = (tuple(o for o in job if key_of(o) != "seed") for job in jobs)
    return [list(group) for group in dict.fromkeys(groups)]


def trials(group: Sequence[str], options: SweepOptions) -> list[list[str]]:
    """The overrides of the tuning runs of a group."""
    return [
        [*group, f"{options.tune}={value}", f"seed={seed}"]
        for value in options.grid
        for seed in options.seeds
    ]


def choose(group: Sequence[str], statuses: Sequence[RunStatus], options: SweepOptions) -> Choice:
    """The value with the best mean of the monitored *validation* metric over the tuning seeds.

    If a run with a value has no result, the value cannot be chosen: its mean would be incomplete.

    Args:
        group: the overrides of the group.
        statuses: the statuses of its :func:`trials`.
        options: the options of the sweep.
    """
    each = len(options.seeds)
    scores: dict[str, float | None] = {}
    for i, value in enumerate(options.grid):
        values = [status.value for status in statuses[i * each : (i + 1) * each]]
        scores[value] = fmean(values) if all(map(math.isfinite, values)) else None
    known = {value: score for value, score in scores.items() if score is not None}
    is_max = any(status.mode == "max" for status in statuses)
    best = (max if is_max else min)(known, key=known.__getitem__) if known else None
    return Choice(list(group), best, scores)


def tuned(overrides: Sequence[str], choices: Sequence[Choice], options: SweepOptions) -> list[str]:
    """The overrides of a job with the value chosen for its group.

    Raises:
        ConfigError: if every value of the grid failed for the group.
    """
    group = [o for o in overrides if key_of(o) != "seed"]
    choice = next(choice for choice in choices if choice.overrides == group)
    if choice.value is None:
        tried = ", ".join(choice.scores)
        raise ConfigError(
            f"{','.join(group)}: each of {options.tune}={tried} failed or diverged; see log.txt "
            "in the runs, or set another sweep.grid"
        )
    return [*overrides, f"{options.tune}={choice.value}"]


def as_record(choices: Sequence[Choice], options: SweepOptions) -> Mapping[str, Any]:
    """The record of a tuning in ``sweep.json``."""
    return {
        "key": options.tune,
        "grid": list(options.grid),
        "seeds": list(options.seeds),
        "choices": [asdict(choice) for choice in choices],
    }
