"""Runs grouped by what was swept: the runs of a group differ only in their seed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from attention_lab.data.core.metric_info import Bounds
from attention_lab.reports.metrics import bounds_of
from attention_lab.reports.runs import RecordedRun, number, section, settings
from attention_lab.reports.stats import Interval, mean_interval


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only in their seed."""

    label: str
    #: The swept overrides of the group, by key.
    settings: Mapping[str, str]
    runs: list[RecordedRun]
    # A cache, since every table and chart needs the same means.
    _means: dict[tuple[str, ...], Interval | None] = field(default_factory=dict, repr=False)

    @cached_property
    def finished(self) -> list[RecordedRun]:
        """The finished runs, one per seed: the last run if a seed was run more than once."""
        return list({run.seed: run for run in self.runs if run.status == "finished"}.values())

    @property
    def counts(self) -> Counter[str]:
        """The number of runs by status."""
        return Counter(run.status for run in self.runs)

    def values(self, *keys: str) -> dict[int, float]:
        """A result by seed, where it is finite; ``values("test", "per")`` is the test PER."""
        return {
            run.seed: value
            for run in self.finished
            if run.seed is not None and (value := number(run.result, *keys)) is not None
        }

    def scores(self, metric: str) -> dict[int, float]:
        """The test metric by seed."""
        return self.values("test", metric)

    def interval(self, metric: str) -> Interval | None:
        """The test metric over seeds; None if no seed has it."""
        return self.mean("test", metric)

    def bounds(self, metric: str) -> Bounds:
        """The smallest and the greatest possible value of a metric."""
        return bounds_of(metric, self.finished[0].result if self.finished else None)

    def mean(self, *keys: str, metric: str | None = None) -> Interval | None:
        """A result over seeds with its interval; None if no seed has it.

        Args:
            keys: the path of keys in ``result.json``.
            metric: the metric, for its bounds; None means the last key.
        """
        if keys not in self._means:
            values, bounds = list(self.values(*keys).values()), self.bounds(metric or keys[-1])
            self._means[keys] = mean_interval(values, bounds=bounds) if values else None
        return self._means[keys]

    def median(self, *keys: str) -> float | None:
        """The median of a result over seeds, such as ``median("seconds", "training")``."""
        values = self.values(*keys)
        return median(values.values()) if values else None

    @property
    def steps_to_threshold(self) -> float | None:
        """The median number of steps over seeds; inf for a seed that never reaches the threshold.

        None if there is no threshold.
        """
        runs = [run for run in self.finished if number(run.result, "threshold") is not None]
        steps = [number(run.result, "steps_to_threshold") for run in runs]
        return median(math.inf if step is None else step for step in steps) if steps else None


def group_runs(runs: Sequence[RecordedRun]) -> tuple[list[Group], list[str]]:
    """The groups of runs, and the keys in which the groups differ.

    These keys are those of the overrides that differ between runs, except the seed. Then come other
    settings that differ between runs with equal overrides, for example from two sweeps. A key that
    was tuned per group is left out, unless groups would merge without it.
    """
    each = [settings(run) for run in runs]
    keys = dict.fromkeys(key for choice in each for key in choice)
    swept = [key for key in keys if len({choice.get(key) for choice in each}) > 1]
    tuned = {section(run.sweep, "tuning").get("key") for run in runs}
    chosen = [key for key in swept if key not in tuned]
    if len(_members(each, chosen)) == len(_members(each, swept)):
        swept = chosen
    others = _other_differences(runs, _members(each, swept).values())
    for run, choice in zip(runs, each, strict=True):
        choice |= {key: run.leaves[key] for key in others if key in run.leaves}
    swept += [key for key in others if key not in swept]
    members = _members(each, swept)
    choices = [
        {key: value for key, value in zip(swept, values, strict=True) if value is not None}
        for values in members
    ]
    if swept:
        labels = _labels(choices, swept)
    else:
        labels = [settings(run).get("attention", "all runs") for run in runs[:1]]
    groups = [
        Group(label, choice, [runs[index] for index in indices])
        for label, choice, indices in zip(labels, choices, members.values(), strict=True)
    ]
    return groups, swept


def find_group(wanted: str, groups: Sequence[Group]) -> Group:
    """The group with a label, or with overrides such as "attention=scaled_dot_product".

    Raises:
        ValueError: if it matches no group or several; the message lists the groups.
    """
    terms = {tuple(part.split("=", 1)) for part in re.split(r",\s*(?=[^,=\[\]]+=)", wanted)}
    found = [
        group
        for group in groups
        if group.label == wanted
        or terms <= {*settings(group.runs[0]).items(), *group.settings.items()}
    ]
    if len(found) == 1:
        return found[0]
    problem = "matches more than one group" if found else "matches no group"
    labels = "; ".join(group.label for group in groups)
    raise ValueError(f'--baseline "{wanted}" {problem}; groups: {labels}')


def quote_label(label: str) -> str:
    """A label for use in a list: in quotes if it contains a comma."""
    return f'"{label}"' if "," in label else label


def _members(
    choices: Sequence[Mapping[str, str]], swept: Sequence[str]
) -> dict[tuple[str | None, ...], list[int]]:
    """The indices of the runs by their values of the swept keys."""
    members: dict[tuple[str | None, ...], list[int]] = {}
    for index, choice in enumerate(choices):
        members.setdefault(tuple(map(choice.get, swept)), []).append(index)
    return members


def _other_differences(runs: Sequence[RecordedRun], members: Iterable[Sequence[int]]) -> list[str]:
    """A minimal list of settings that distinguish runs of equal overrides.

    A setting that only some of these runs have is ignored, as another version added or removed it.
    """
    found: dict[str, None] = {}
    for indices in members:
        known = [runs[index].leaves for index in indices if runs[index].config]
        combinations: list[tuple[str, ...]] = [() for _ in known]
        for key in known[0] if known else ():
            if not all(key in one for one in known):
                continue
            further = [(*before, one[key]) for before, one in zip(combinations, known, strict=True)]
            if len(set(further)) > len(set(combinations)):
                combinations, found[key] = further, None
    return list(found)


def _labels(choices: Sequence[Mapping[str, str]], swept: Sequence[str]) -> list[str]:
    """A short label for each group; the full overrides if short labels would collide."""
    short = [", ".join(_term(key, value, swept) for key, value in c.items()) for c in choices]
    if len(set(short)) < len(short):
        short = [", ".join(f"{key}={value}" for key, value in c.items()) for c in choices]
    # A group without any of the swept overrides runs with the default.
    return [label or "default" for label in short]


def _term(key: str, value: str, swept: Sequence[str]) -> str:
    """One setting in a label: the name of an option, or the last part of the key and a number."""
    is_choice = not re.fullmatch(r"[-+]?[\d.][\d.eE+-]*|true|false|null|", value)
    if len(value) > 8 and re.fullmatch(r"[-+]?\d+\.\d+(e[-+]?\d+)?", value):
        value = f"{float(value):.4g}"  # as a search samples them; the csv has all digits
    if is_choice and (len(swept) == 1 or "." not in key):
        return value
    ends = [other.rpartition(".")[2] for other in swept]
    end = key.rpartition(".")[2]
    return f"{end if ends.count(end) == 1 else key}={value}"
