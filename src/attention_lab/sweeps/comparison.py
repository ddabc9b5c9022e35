"""Runs grouped by what was swept, compared over seeds, with what the numbers support."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from attention_lab.sweeps.records import Run, number, section, settings
from attention_lab.sweeps.statistics import (
    Interval,
    holm,
    mean_interval,
    paired_difference,
    paired_p_value,
)


@dataclass(frozen=True, eq=False)
class Group:
    """The runs that differ in nothing but their seed."""

    label: str
    #: The swept overrides of the group, by key.
    settings: Mapping[str, str]
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        """The finished runs, one per seed: the last one, where a seed was run more than once."""
        return list({run.seed: run for run in self.runs if run.status == "finished"}.values())

    @property
    def counts(self) -> Counter[str]:
        """How many runs there are of each status."""
        return Counter(run.status for run in self.runs)

    def scores(self, metric: str) -> dict[int, float]:
        """The test metric of each finished seed that has it as a finite number."""
        return {
            run.seed: value
            for run in self.finished
            if run.seed is not None and (value := number(run.result, "test", metric)) is not None
        }

    def interval(self, metric: str) -> Interval | None:
        """The test metric over seeds; None if no seed has it."""
        scores = self.scores(metric)
        return mean_interval(list(scores.values())) if scores else None

    def median(self, *keys: str) -> float | None:
        """The median over seeds of a result, as of ``median("seconds", "training")``."""
        values = [number(run.result, *keys) for run in self.finished]
        known = [value for value in values if value is not None]
        return median(known) if known else None

    @property
    def steps_to_threshold(self) -> float | None:
        """The median over seeds; inf where that seed never got there, None without a threshold."""
        runs = [run for run in self.finished if number(run.result, "threshold") is not None]
        steps = [number(run.result, "steps_to_threshold") for run in runs]
        return median(math.inf if step is None else step for step in steps) if steps else None


@dataclass(frozen=True)
class Difference:
    """The paired difference of a metric between two groups, on the seeds that both finished."""

    group: Group
    #: What is subtracted.
    reference: Group
    interval: Interval
    p_value: float
    #: Holm's, over the family of differences that were asked for together.
    adjusted_p: float

    @property
    def is_supported(self) -> bool:
        """Whether the seeds support that there is a difference at all.

        It takes three seeds, an interval without zero and an adjusted p below 0.05.
        """
        excludes_zero = self.interval.low > 0 or self.interval.high < 0
        return self.interval.n >= 3 and excludes_zero and self.adjusted_p < 0.05


@dataclass(frozen=True)
class Comparison:
    """Groups of runs side by side, in the order of the sweep."""

    groups: list[Group]
    #: Runs whose overrides could not be read, so that no group can own them.
    unplaced: list[Run]
    #: The override keys that tell the groups apart.
    swept: list[str]
    #: The test metrics, the monitored one first, then those that have a floor.
    metrics: list[str]
    #: The accuracies of single slices of the test examples, as "accuracy/length=1-10".
    sliced: list[str]
    #: Of the monitored metric: "min" or "max".
    mode: str
    #: What a trivial baseline reaches on test, by metric.
    floor: Mapping[str, float]
    #: What is known to do well without solving the task, by its name: metrics on test.
    shortcuts: Mapping[str, Mapping[str, float]]
    #: The value on validation that ``steps_to_threshold`` counts the steps to.
    threshold: float | None
    baseline: Group | None
    #: What makes the comparison doubtful, a line each.
    warnings: list[str]
    #: Whether the groups' optimizers were tuned, in a line; None if that is unknown.
    tuning: str | None

    @property
    def yardsticks(self) -> dict[str, Mapping[str, float]]:
        """What every group is held against, by name: the floor, then the shortcuts."""
        return {
            name: known for name, known in (("floor", self.floor), *self.shortcuts.items()) if known
        }

    @property
    def runs(self) -> list[Run]:
        """Every run, placed or not."""
        return [run for group in self.groups for run in group.runs] + self.unplaced

    @property
    def unfinished(self) -> list[tuple[str, Run]]:
        """Every run that gave no result, with the label of its group ("" if it has none)."""
        placed = [(group.label, run) for group in self.groups for run in group.runs]
        unplaced = [("", run) for run in self.unplaced]
        return [(label, run) for label, run in placed + unplaced if run.status != "finished"]

    def ranked(self) -> list[tuple[Group, Interval]]:
        """The groups that have the first metric, each with its interval, the best mean first."""
        if not self.metrics:
            return []
        scored = [(g, i) for g in self.groups if (i := g.interval(self.metrics[0]))]
        return sorted(scored, key=lambda pair: pair[1].mean, reverse=self.mode == "max")

    def to_baseline(self, metric: str) -> list[Difference]:
        """Each other group minus the baseline, adjusted for the number of groups."""
        if self.baseline is None:
            return []
        others = [group for group in self.groups if group is not self.baseline]
        return _differences([(group, self.baseline) for group in others], metric)

    def from_best(self) -> list[Difference]:
        """The best group minus each other, in the first metric, adjusted for all pairs of groups.

        All pairs are the family: which group is the best was seen in the results, not foretold.
        """
        ranked = [group for group, _ in self.ranked()]
        if len(ranked) < 2:
            return []
        pairs = _differences(list(combinations(ranked, 2)), self.metrics[0])
        return [difference for difference in pairs if difference.group is ranked[0]]


def compare(runs: Sequence[Run], baseline: str | None = None) -> Comparison:
    """The runs, grouped by what was swept: every override but the seed that runs do not share.

    Args:
        runs: the runs, in the order of the sweep.
        baseline: a group by its label, or by overrides as "attention=scaled_dot_product".

    Raises:
        ValueError: if the baseline fits no group or several; the message lists the groups.
    """
    placed = [run for run in runs if run.overrides is not None]
    swept = _swept(placed)
    groups = _groups(placed, swept)
    results = [run.result for group in groups for run in group.finished if run.result]
    first = results[0] if results else {}
    floor = _numbers(section(first, "floor"))
    tested = dict.fromkeys(metric for result in results for metric in section(result, "test"))
    rank = (first.get("monitor"), *floor, *tested)
    metrics = sorted((metric for metric in tested if "/" not in metric), key=rank.index)
    return Comparison(
        groups=groups,
        unplaced=[run for run in runs if run.overrides is None],
        swept=swept,
        metrics=metrics,
        sliced=[metric for metric in tested if "/" in metric],
        mode=str(first.get("mode")),
        floor=floor,
        shortcuts={name: _numbers(known) for name, known in section(first, "shortcuts").items()},
        threshold=number(first, "threshold"),
        baseline=_named(baseline, groups) if baseline else None,
        warnings=_disagreements(groups) + [w for group in groups for w in _doubts(group, metrics)],
        tuning=_tuning(groups),
    )


def _numbers(metrics: object) -> dict[str, float]:
    """Those of some metrics that are finite numbers."""
    names = metrics if isinstance(metrics, Mapping) else {}
    return {name: value for name in names if (value := number(metrics, name)) is not None}


def _swept(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in settings(run))
    return [key for key in keys if len({settings(run).get(key) for run in runs}) > 1]


def _groups(runs: Sequence[Run], swept: Sequence[str]) -> list[Group]:
    members: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(map(settings(run).get, swept)), []).append(run)
    choices = [
        {key: value for key, value in zip(swept, values, strict=True) if value is not None}
        for values in members
    ]
    labels = _labels(choices, swept) if swept else [_unswept_label(run) for run in runs[:1]]
    return [Group(*each) for each in zip(labels, choices, members.values(), strict=True)]


def _labels(choices: Sequence[Mapping[str, str]], swept: Sequence[str]) -> list[str]:
    """A short name for each group; the full overrides where short ones would collide."""
    short = [", ".join(_term(key, value, swept) for key, value in c.items()) for c in choices]
    if len(set(short)) < len(short):
        short = [", ".join(f"{key}={value}" for key, value in c.items()) for c in choices]
    # A group that leaves out what the others override runs on the default.
    return [label or "default" for label in short]


def _unswept_label(run: Run) -> str:
    return settings(run).get("attention", "all runs")


def _term(key: str, value: str, swept: Sequence[str]) -> str:
    """One setting in a label: a choice speaks for itself, a number needs the end of its key."""
    is_choice = not re.fullmatch(r"[-+]?[\d.][\d.eE+-]*|true|false|null|", value)
    if is_choice and (len(swept) == 1 or "." not in key):
        return value
    ends = [other.rpartition(".")[2] for other in swept]
    end = key.rpartition(".")[2]
    return f"{end if ends.count(end) == 1 else key}={value}"


def _named(baseline: str, groups: Sequence[Group]) -> Group:
    wanted = {tuple(part.split("=", 1)) for part in re.split(r",\s*(?=[^,=\[\]]+=)", baseline)}
    found = [
        group
        for group in groups
        if group.label == baseline or wanted <= set(settings(group.runs[0]).items())
    ]
    if len(found) == 1:
        return found[0]
    problem = "fits more than one group" if found else "fits no group"
    labels = "; ".join(group.label for group in groups)
    raise ValueError(f'the baseline "{baseline}" {problem} of: {labels}')


def _differences(pairs: Sequence[tuple[Group, Group]], metric: str) -> list[Difference]:
    """The differences of the pairs that share a finished seed, one family for Holm."""
    scores = [(one.scores(metric), other.scores(metric)) for one, other in pairs]
    paired = [i for i, (one, other) in enumerate(scores) if one.keys() & other.keys()]
    p_values = [paired_p_value(*scores[i]) for i in paired]
    return [
        Difference(*pairs[i], paired_difference(*scores[i]), p, adjusted)
        for i, p, adjusted in zip(paired, p_values, holm(p_values), strict=True)
    ]


def _disagreements(groups: Sequence[Group]) -> list[str]:
    """What finished runs do not have in common although a comparison rests on it."""
    runs = [run for group in groups for run in group.finished]
    results = [run.result or {} for run in runs]
    lines = []
    # The seed of the data orders the batches; the task is the same.
    if keys := _differing([{**section(run.config, "data"), "seed": None} for run in runs]):
        lines.append(
            f"The runs differ in their data ({keys}): they may answer different questions."
        )
    if keys := _differing([dict.fromkeys(section(result, "test"), True) for result in results]):
        lines.append(f"Not every run reports the same test metrics ({keys}).")
    if keys := _differing(results, "monitor", "mode", "floor", "shortcuts", "threshold"):
        lines.append(f"The runs differ in their {keys}; those of the first run are shown.")
    if keys := _differing([run.record for run in runs], "host", "git_revision", "versions"):
        lines.append(f"The runs differ in {keys}: their speeds and times may not compare.")
    if len({frozenset(run.seed for run in group.finished) for group in groups}) > 1:
        lines.append("The groups have not finished the same seeds; only shared seeds are paired.")
    return lines


def _doubts(group: Group, metrics: Sequence[str]) -> list[str]:
    """What speaks against taking the numbers of one group at face value."""
    metric = metrics[0] if metrics else "metric"
    finished, scores = group.finished, group.scores(metric)
    lines = []
    if finished and (others := len(group.runs) - group.counts["finished"]):
        lines.append(
            f"{others} of {len(group.runs)} runs gave no result; the means leave them out."
        )
    if len(finished) < group.counts["finished"]:
        lines.append("a seed has finished more than once; its last run counts.")
    if len(scores) < len(finished):
        lines.append(f"{len(finished) - len(scores)} finished runs have no {metric} on test.")
    if len(scores) > 1 and len(set(scores.values())) == 1:
        lines.append(f"all seeds have the very same {metric}; do they reach the run?")
    return [f"{group.label}: {line}" for line in lines]


def _tuning(groups: Sequence[Group]) -> str | None:
    """Whether the groups trained with the same optimizer, which a table of them must say."""
    optimizers = [section(run.config, "optimizer") for group in groups for run in group.finished]
    if len(groups) < 2 or not all(optimizers):
        return None
    if keys := _differing(optimizers):
        return f"The runs differ in their optimizer ({keys})."
    return "Every run had the same optimizer: its learning rate was not tuned for each group."


def _differing(mappings: Sequence[Mapping[str, Any]], *keys: str) -> str:
    """Those of the ``keys``, by default of all, whose values are not the same everywhere."""
    keys = keys or tuple(dict.fromkeys(key for mapping in mappings for key in mapping))
    return ", ".join(k for k in keys if any(m.get(k) != mappings[0].get(k) for m in mappings))
