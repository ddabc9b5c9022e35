"""Groups of runs compared over seeds, with what the numbers support."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from attention_lab.reports.caveats import disagreements, doubts, same_question
from attention_lab.reports.groups import Group, grouped, named
from attention_lab.reports.runs import Run, number, section
from attention_lab.reports.stats import (
    Bounds,
    Interval,
    effect_size,
    holm_factors,
    paired_difference,
    paired_p_value,
)
from attention_lab.reports.tuning import Tuning, edges, not_tuned, same_optimizer, tunings

#: Metrics of which less is better, besides those that end in "loss" or "error_rate".
LOWER_IS_BETTER = ("perplexity", "bits_per_character", "per", "wer", "cer")


_OF_EVALUATION = (
    "The test metrics are those that `attention-lab evaluate` kept with {}; validation and costs "
    "are those of the runs."
)
#: A metric by seed.
Scores = Mapping[int, float]


@dataclass(frozen=True)
class Difference:
    """The paired difference of a metric between two groups, on the seeds that both finished."""

    group: Group
    #: What is subtracted.
    reference: Group
    #: The metric by seed: of the group, and of the reference.
    scores: tuple[Scores, Scores]
    #: Of a value of the metric.
    bounds: Bounds
    p_value: float
    #: What Holm's procedure multiplies the p-value with, in the family that was asked for together.
    factor: float

    @property
    def adjusted_p(self) -> float:
        """Holm's p-value; nan where there is none."""
        return self.factor if math.isnan(self.factor) else min(1.0, self.p_value * self.factor)

    @property
    def confidence(self) -> float:
        """Of the interval, which is adjusted like the p-value."""
        return 0.95 if math.isnan(self.factor) else 1 - 0.05 / self.factor

    @cached_property
    def interval(self) -> Interval:
        """The difference with an interval that excludes 0 exactly if the adjusted p < 0.05."""
        return paired_difference(*self.scores, self.confidence, self.bounds)

    @cached_property
    def effect_size(self) -> float:
        """Hedges' g_av: the difference in standard deviations of a single run."""
        return effect_size(*self.scores)

    @property
    def is_supported(self) -> bool:
        """Whether the seeds, three at least, support that there is a difference at all."""
        return self.adjusted_p < 0.05


@dataclass(frozen=True)
class Comparison:
    """Groups of runs side by side, in the order of the sweep."""

    groups: list[Group]
    #: Runs whose overrides could not be read, so that no group can own them.
    unplaced: list[Run]
    #: The keys that tell the groups apart.
    swept: list[str]
    #: The test metrics: the one that groups are compared by, then those of the trivial baseline.
    metrics: list[str]
    #: The accuracies of single slices of the test examples, as "accuracy/length=1-10".
    sliced: list[str]
    #: Of the first metric: "min" or "max".
    mode: str
    #: The test metrics of the trivial baseline.
    trivial_baseline: Mapping[str, float]
    #: The test metrics of each shortcut baseline, by its name.
    shortcut_baselines: Mapping[str, Mapping[str, float]]
    #: The value on validation that ``steps_to_threshold`` counts the steps to, and its metric.
    threshold: float | None
    monitor: str
    baseline: Group | None
    #: Whether all runs have the same data, without which no group is better than another.
    same_question: bool
    #: What makes the comparison doubtful, a line each.
    warnings: list[str]
    #: The hyperparameters that were tuned per group, and a line on groups that were not tuned.
    tunings: list[Tuning]
    untuned: str | None

    @property
    def baselines(self) -> dict[str, Mapping[str, float]]:
        """The trivial baseline, then the shortcut baselines, by the names that are shown."""
        named = {"trivial baseline": self.trivial_baseline}
        named |= {f"{name} (shortcut)": known for name, known in self.shortcut_baselines.items()}
        return {name: known for name, known in named.items() if known}

    @property
    def tuning(self) -> str | None:
        """How the groups' optimizers came about, which a table of them must say."""
        return " ".join([*map(str, self.tunings), self.untuned or ""]).strip() or None

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

    @cached_property
    def _pairwise(self) -> dict[tuple[Group, Group], Difference]:
        """The differences in the first metric of all pairs of groups, a better mean first.

        All pairs are the family: which group is the best was seen in the results, not foretold.
        """
        ranked = [group for group, _ in self.ranked()]
        found = _differences(list(combinations(ranked, 2)), self.metrics[0]) if ranked else []
        return {(each.group, each.reference): each for each in found}

    @cached_property
    def _to_baseline(self) -> dict[Group, Difference]:
        return {each.group: each for each in self.to_baseline(self.metrics[0])}

    def difference(self, one: Group, other: Group) -> Difference | None:
        """The difference of two groups in the first metric, in either order.

        With the baseline it is that of the table of differences, adjusted for the number of groups.
        """
        if self.baseline is not None and self.baseline in (one, other):
            return self._to_baseline.get(other if one is self.baseline else one)
        return self._pairwise.get((one, other)) or self._pairwise.get((other, one))

    def is_better(self, one: Group, other: Group) -> bool:
        """Whether the seeds support that a group is better than another in the first metric."""
        difference = self.difference(one, other)
        if difference is None or not difference.is_supported:
            return False
        gain = difference.interval.mean if difference.group is one else -difference.interval.mean
        return self._is_better_value(gain, 0)

    @cached_property
    def leaders(self) -> list[Group]:
        """The group with the best mean, and those that the seeds do not distinguish from it."""
        ranked = [group for group, _ in self.ranked()]
        return [g for g in ranked if g is ranked[0] or not self.is_better(ranked[0], g)]

    @property
    def unbeaten(self) -> tuple[str, float] | None:
        """The baseline, trivial or shortcut, that no group's mean beats: its name and value."""
        known, mean = self.baselines_to_name[-1:], self.ranked()[0][1].mean
        return next(((name, v) for name, v in known if not self._is_better_value(mean, v)), None)

    @property
    def is_within_interval(self) -> bool:
        """Whether a baseline that the best mean beats lies within that mean's interval."""
        best = self.ranked()[0][1]
        end = best.ends[0 if self.mode == "max" else 1]
        known = self.baselines_to_name[-1:] if self.unbeaten is None else []
        return any(not self._is_better_value(end, value) for _, value in known)

    @property
    def baselines_to_name(self) -> list[tuple[str, float]]:
        """The trivial baseline in the first metric and the best shortcut, if that is better."""
        metric = self.metrics[0]
        trivial = self.trivial_baseline.get(metric)
        known = [] if trivial is None else [("trivial baseline", trivial)]
        shortcuts = [
            (each[metric], name) for name, each in self.shortcut_baselines.items() if metric in each
        ]
        if shortcuts:
            value, name = (max if self.mode == "max" else min)(shortcuts)
            if not known or self._is_better_value(value, known[0][1]):
                known.append((f"shortcut baseline {name}", value))
        return known

    def _is_better_value(self, one: float, other: float) -> bool:
        return one > other if self.mode == "max" else one < other

    @property
    def winner(self) -> Group | None:
        """The group that is better than every other group and every baseline beyond chance."""
        if len(self.ranked()) < 2 or len(self.leaders) > 1 or not self.same_question:
            return None
        return None if self.unbeaten or self.is_within_interval else self.leaders[0]


def compare(
    runs: Sequence[Run],
    baseline: str | None = None,
    metric: str | None = None,
    evaluation: str | None = None,
) -> Comparison:
    """The runs, grouped by what was swept: every override but the seed that runs do not share.

    Args:
        runs: the runs, in the order of the sweep.
        baseline: a group by its label, or by overrides as "attention=scaled_dot_product".
        metric: the test metric to compare by, as "wer" or "test/wer"; None means the one that the
            runs monitored or, where they differ in that, one that all groups have.
        evaluation: what the runs' test metrics are of, if not of their own test, as "beam=5".

    Raises:
        ValueError: if the baseline fits no group or several, or no run was tested for the metric;
            the message lists what there is.
    """
    groups, swept = grouped([run for run in runs if run.overrides is not None])
    results = [run.result for group in groups for run in group.finished if run.result]
    first = results[0] if results else {}
    trivial = _numbers(section(first, "trivial_baseline"))
    tested = dict.fromkeys(name for result in results for name in section(result, "test"))
    whole = [name for name in tested if "/" not in name]
    leading = _leading(groups, first, whole) if metric is None else _asked(metric, whole)
    rank = (leading, first.get("monitor"), *trivial, *tested)
    metrics = sorted(whole, key=rank.index)
    found = tunings(groups)
    return Comparison(
        groups=groups,
        unplaced=[run for run in runs if run.overrides is None],
        swept=swept,
        metrics=metrics,
        sliced=[name for name in tested if "/" in name],
        mode=direction(str(leading), first),
        trivial_baseline=trivial,
        shortcut_baselines={
            name: _numbers(known) for name, known in section(first, "shortcut_baselines").items()
        },
        threshold=number(first, "threshold"),
        monitor=str(first.get("monitor")),
        baseline=named(baseline, groups) if baseline else None,
        same_question=same_question(groups),
        warnings=[
            *([_OF_EVALUATION.format(evaluation)] if evaluation else []),
            *disagreements(groups, swept),
            *(line for group in groups for line in doubts(group, str(leading))),
            *(line for tuning in found for line in edges(tuning)),
        ],
        tunings=found,
        untuned=not_tuned(groups) if found else same_optimizer(groups),
    )


def direction(metric: str, result: Mapping[str, object]) -> str:
    """Which end of a metric's range is good, "min" or "max": as recorded, or as its name says."""
    if metric == result.get("monitor"):
        return str(result.get("mode"))
    is_lower = metric in LOWER_IS_BETTER or metric.endswith(("loss", "error_rate"))
    return "min" if is_lower else "max"


def _leading(
    groups: Sequence[Group], first: Mapping[str, object], metrics: Sequence[str]
) -> str | None:
    """The metric to compare by: the monitored one, unless others than that are in all groups."""
    monitor = first.get("monitor")
    tested = [section(run.result, "test") for group in groups for run in group.finished]
    shared = [metric for metric in metrics if all(metric in test for test in tested)]
    if monitor in shared or not shared:
        return str(monitor) if monitor in metrics else next(iter(metrics), None)
    return shared[0]


def _asked(metric: str, metrics: Sequence[str]) -> str:
    """The test metric that is meant.

    Raises:
        ValueError: if there is none.
    """
    split, _, name = metric.rpartition("/")
    if split == "validation":
        raise ValueError(
            f"--metric {metric}: checkpoints were chosen by validation, so runs are compared on "
            f"test; --metric test/{name}"
        )
    if split not in ("", "test") or name not in metrics:
        known = ", ".join(f"test/{name}" for name in metrics) or "none, as no run has finished"
        raise ValueError(f"--metric {metric}: no run was tested for it; there is {known}")
    return name


def _numbers(metrics: object) -> dict[str, float]:
    """Those of some metrics that are finite numbers."""
    names = metrics if isinstance(metrics, Mapping) else {}
    return {name: value for name in names if (value := number(metrics, name)) is not None}


def _differences(pairs: Sequence[tuple[Group, Group]], metric: str) -> list[Difference]:
    """The differences of the pairs that share a finished seed, one family for Holm."""
    scores = {group: group.scores(metric) for pair in pairs for group in pair}
    shared = [pair for pair in pairs if scores[pair[0]].keys() & scores[pair[1]].keys()]
    paired = [(scores[one], scores[other]) for one, other in shared]
    p_values = [paired_p_value(*each) for each in paired]
    return [
        Difference(one, other, each, one.bounds(metric), p, factor)
        for (one, other), each, p, factor in zip(
            shared, paired, p_values, holm_factors(p_values), strict=True
        )
    ]
