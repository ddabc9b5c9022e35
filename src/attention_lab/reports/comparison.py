"""The comparison of groups of runs over seeds, which reports show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attention_lab.reports.caveats import group_caveats, run_caveats, same_data
from attention_lab.reports.differences import Difference
from attention_lab.reports.groups import Group, find_group, group_runs
from attention_lab.reports.metrics import direction
from attention_lab.reports.ranking import Baselines, Ranking, differences_to
from attention_lab.reports.runs import RecordedRun, number, section
from attention_lab.reports.tuning import (
    Tuning,
    optimizer_note,
    read_tunings,
    tuning_caveats,
    untuned_note,
)

_FROM_EVALUATION = (
    "The test metrics are those that `attention-lab evaluate` saved with {}; validation and costs "
    "are those of the runs."
)


@dataclass(frozen=True)
class Comparison:
    """The groups of runs that a report compares, in the order of the sweep."""

    groups: list[Group]
    #: Runs whose overrides could not be read, so that they belong to no group.
    unplaced: list[RecordedRun]
    #: The config keys in which the groups differ.
    swept: list[str]
    #: The test metrics: first the metric that groups are compared by, then the others.
    metrics: list[str]
    #: The test metrics on slices of the examples, such as "accuracy/length=1-10".
    slice_metrics: list[str]
    #: Whether "min" or "max" of the first metric is better.
    mode: str
    #: The trivial and shortcut baselines, on test.
    baselines: Baselines
    #: The validation value that ``steps_to_threshold`` counts the steps to.
    threshold: float | None
    #: The metric by which checkpoints were selected on validation.
    monitor: str
    #: The group that the others are compared with, if one was named.
    baseline: Group | None
    #: Whether all runs have the same data; otherwise no group is called better than another.
    same_data: bool
    #: Reasons to doubt the comparison, one line each.
    caveats: list[str]
    #: The hyperparameters that were tuned for each group.
    tunings: list[Tuning]
    #: A sentence about groups that were not tuned.
    untuned: str | None

    @property
    def tuning(self) -> str | None:
        """How the groups' optimizers were chosen, in sentences."""
        return " ".join([*map(str, self.tunings), self.untuned or ""]).strip() or None

    @property
    def placed(self) -> list[tuple[str, RecordedRun]]:
        """Every run with the label of its group ("" if it belongs to none)."""
        grouped = [(group.label, run) for group in self.groups for run in group.runs]
        return grouped + [("", run) for run in self.unplaced]

    @property
    def runs(self) -> list[RecordedRun]:
        """Every run."""
        return [run for _, run in self.placed]

    @property
    def unfinished(self) -> list[tuple[str, RecordedRun]]:
        """Every run without a result, with the label of its group."""
        return [(label, run) for label, run in self.placed if run.status != "finished"]

    @cached_property
    def ranking(self) -> Ranking:
        """The groups ranked by the first metric."""
        metric = self.metrics[0] if self.metrics else None
        return Ranking(metric, self.mode, self.groups, self.baseline, self.baselines)

    @property
    def winner(self) -> Group | None:
        """The group that is significantly better than every other group and every baseline."""
        return self.ranking.winner if self.same_data else None

    def to_baseline(self, metric: str) -> list[Difference]:
        """Each other group minus the baseline group, adjusted for the number of groups."""
        return differences_to(self.baseline, self.groups, metric) if self.baseline else []


def compare(
    runs: Sequence[RecordedRun],
    baseline: str | None = None,
    metric: str | None = None,
    evaluation: str | None = None,
) -> Comparison:
    """Group the runs by what was swept (every override except the seed) and compare the groups.

    Args:
        runs: the runs, in the order of the sweep.
        baseline: a group by its label, or by overrides such as "attention=scaled_dot_product".
        metric: the test metric to compare by, such as "wer" or "test/wer"; None means the monitored
            metric or, if the runs monitored different metrics, one that all groups have.
        evaluation: the evaluation that the test metrics are from ("num_beams=5"); None means the
            runs' own test.

    Raises:
        ValueError: if the baseline matches no group or several, or no run was tested for the
            metric; the message lists the valid names.
    """
    groups, swept = group_runs([run for run in runs if run.overrides is not None])
    results = [run.result for group in groups for run in group.finished if run.result]
    first = results[0] if results else {}
    trivial = _numbers(section(first, "trivial_baseline"))
    whole, on_slices = _test_metrics(groups, results, metric)
    leading = whole[0] if whole else "metric"
    shortcuts = section(first, "shortcut_baselines")
    found = read_tunings(groups)
    return Comparison(
        groups=groups,
        unplaced=[run for run in runs if run.overrides is None],
        swept=swept,
        metrics=whole,
        slice_metrics=on_slices,
        mode=direction(leading, first),
        baselines=Baselines(trivial, {name: _numbers(known) for name, known in shortcuts.items()}),
        threshold=number(first, "threshold"),
        monitor=str(first.get("monitor")),
        baseline=find_group(baseline, groups) if baseline else None,
        same_data=same_data(groups),
        caveats=[
            *([_FROM_EVALUATION.format(evaluation)] if evaluation else []),
            *_caveats(groups, swept, leading, found),
        ],
        tunings=found,
        untuned=untuned_note(groups) if found else optimizer_note(groups),
    )


def _test_metrics(
    groups: Sequence[Group], results: Sequence[Mapping[str, Any]], metric: str | None
) -> tuple[list[str], list[str]]:
    """The test metrics, first the one that groups are compared by, and the metrics on slices."""
    first = results[0] if results else {}
    tested = dict.fromkeys(name for result in results for name in section(result, "test"))
    whole = [name for name in tested if "/" not in name]
    leading = _default_metric(groups, first, whole) if metric is None else _asked(metric, whole)
    order = (leading, first.get("monitor"), *_numbers(first.get("trivial_baseline")), *tested)
    return sorted(whole, key=order.index), [name for name in tested if "/" in name]


def _caveats(
    groups: Sequence[Group], swept: Sequence[str], metric: str, tunings: Sequence[Tuning]
) -> list[str]:
    lines = run_caveats(groups, swept)
    for group in groups:
        lines += group_caveats(group, metric)
    for tuning in tunings:
        lines += tuning_caveats(tuning)
    return lines


def _default_metric(
    groups: Sequence[Group], first: Mapping[str, object], metrics: Sequence[str]
) -> str | None:
    """The monitored metric, unless only other metrics are in all groups."""
    monitor = first.get("monitor")
    tested = [section(run.result, "test") for group in groups for run in group.finished]
    shared = [metric for metric in metrics if all(metric in test for test in tested)]
    if monitor in shared or not shared:
        return str(monitor) if monitor in metrics else next(iter(metrics), None)
    return shared[0]


def _asked(metric: str, metrics: Sequence[str]) -> str:
    """The name of the test metric that ``--metric`` asks for.

    Raises:
        ValueError: if no run was tested for it.
    """
    split, _, name = metric.rpartition("/")
    if split == "validation":
        raise ValueError(
            f"--metric {metric}: checkpoints were selected on validation, so runs are compared on "
            f"test; use --metric test/{name}"
        )
    if split not in ("", "test") or name not in metrics:
        known = ", ".join(f"test/{name}" for name in metrics) or "none, as no run has finished"
        raise ValueError(f"--metric {metric}: no run was tested for it; available: {known}")
    return name


def _numbers(metrics: object) -> dict[str, float]:
    """The metrics that are finite numbers."""
    names = metrics if isinstance(metrics, Mapping) else {}
    return {name: value for name in names if (value := number(metrics, name)) is not None}
