"""Groups of runs compared over seeds, with what the numbers support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from attention_lab.reports.doubts import disagreements, doubts, same_question
from attention_lab.reports.groups import Group, grouped, named
from attention_lab.reports.records import Run, number, section
from attention_lab.reports.statistics import (
    Interval,
    effect_size,
    holm,
    paired_difference,
    paired_p_value,
)
from attention_lab.reports.tuned import Tuning, edges, same_optimizer, tunings

#: Metrics of which less is better, besides those that end in "loss" or "error_rate".
LOWER_IS_BETTER = ("perplexity", "bits_per_character", "per", "wer", "cer")


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
    #: Hedges' g_av: the difference in standard deviations of a single run.
    effect_size: float

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
    #: The keys that tell the groups apart.
    swept: list[str]
    #: The test metrics: the one that groups are compared by, then those that have a floor.
    metrics: list[str]
    #: The accuracies of single slices of the test examples, as "accuracy/length=1-10".
    sliced: list[str]
    #: Of the first metric: "min" or "max".
    mode: str
    #: What a trivial baseline reaches on test, by metric.
    floor: Mapping[str, float]
    #: What is known to do well without solving the task, by its name: metrics on test.
    shortcuts: Mapping[str, Mapping[str, float]]
    #: The value on validation that ``steps_to_threshold`` counts the steps to, and its metric.
    threshold: float | None
    monitor: str
    baseline: Group | None
    #: Whether all runs have the same data, without which no group is better than another.
    same_question: bool
    #: What makes the comparison doubtful, a line each.
    warnings: list[str]
    #: How the groups' optimizers came about: as tuned, or else in a line, if that is known.
    tunings: list[Tuning]
    untuned: str | None

    @property
    def yardsticks(self) -> dict[str, Mapping[str, float]]:
        """What every group is held against, by name: the floor, then the shortcuts."""
        return {
            name: known for name, known in (("floor", self.floor), *self.shortcuts.items()) if known
        }

    @property
    def tuning(self) -> str | None:
        """How the groups' optimizers came about, which a table of them must say."""
        return " ".join(map(str, self.tunings)) or self.untuned

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
    def from_best(self) -> list[Difference]:
        """The best group minus each other, in the first metric, adjusted for all pairs of groups.

        All pairs are the family: which group is the best was seen in the results, not foretold.
        """
        ranked = [group for group, _ in self.ranked()]
        if len(ranked) < 2:
            return []
        return _differences(list(combinations(ranked, 2)), self.metrics[0], len(ranked) - 1)


def compare(
    runs: Sequence[Run], baseline: str | None = None, metric: str | None = None
) -> Comparison:
    """The runs, grouped by what was swept: every override but the seed that runs do not share.

    Args:
        runs: the runs, in the order of the sweep.
        baseline: a group by its label, or by overrides as "attention=scaled_dot_product".
        metric: the test metric to compare by, as "wer" or "test/wer"; None means the one that the
            runs monitored or, where they differ in that, one that all groups have.

    Raises:
        ValueError: if the baseline fits no group or several, or no run was tested for the metric;
            the message lists what there is.
    """
    groups, swept = grouped([run for run in runs if run.overrides is not None])
    results = [run.result for group in groups for run in group.finished if run.result]
    first = results[0] if results else {}
    floor = _numbers(section(first, "floor"))
    tested = dict.fromkeys(name for result in results for name in section(result, "test"))
    whole = [name for name in tested if "/" not in name]
    leading = _leading(groups, first, whole) if metric is None else _asked(metric, whole)
    rank = (leading, first.get("monitor"), *floor, *tested)
    metrics = sorted(whole, key=rank.index)
    found = tunings(groups)
    return Comparison(
        groups=groups,
        unplaced=[run for run in runs if run.overrides is None],
        swept=swept,
        metrics=metrics,
        sliced=[name for name in tested if "/" in name],
        mode=direction(str(leading), first),
        floor=floor,
        shortcuts={name: _numbers(known) for name, known in section(first, "shortcuts").items()},
        threshold=number(first, "threshold"),
        monitor=str(first.get("monitor")),
        baseline=named(baseline, groups) if baseline else None,
        same_question=same_question(groups),
        warnings=[
            *disagreements(groups, swept),
            *(line for group in groups for line in doubts(group, str(leading))),
            *(line for tuning in found for line in edges(tuning)),
        ],
        tunings=found,
        untuned=same_optimizer(groups),
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


def _differences(
    pairs: Sequence[tuple[Group, Group]], metric: str, wanted: int | None = None
) -> list[Difference]:
    """The differences of the pairs that share a finished seed, one family for Holm.

    Args:
        pairs: all of the family.
        metric: on test.
        wanted: of how many pairs, the first ones, the differences are wanted; None means all.
    """
    scores = {group: group.scores(metric) for pair in pairs for group in pair}
    paired = [(scores[one], scores[other]) for one, other in pairs]
    shared = [i for i, (one, other) in enumerate(paired) if one.keys() & other.keys()]
    p_values = [paired_p_value(*paired[i]) for i in shared]
    return [
        Difference(*pairs[i], paired_difference(*paired[i]), p, adjusted, effect_size(*paired[i]))
        for i, p, adjusted in zip(shared, p_values, holm(p_values), strict=True)
        if wanted is None or i < wanted
    ]
