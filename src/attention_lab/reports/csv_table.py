"""A comparison as a table of numbers in full precision, for ``report.csv`` and W&B."""

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.differences import Difference
from attention_lab.reports.groups import Group
from attention_lab.reports.stats import Interval
from attention_lab.tracking.csv_file import cell

_STATUSES = ("finished", "failed", "diverged", "pruned", "preempted", "running", "waiting")
#: The columns of a run's costs, with the path of keys in ``result.json``.
COST_COLUMNS = {
    "parameters": ("parameters",),
    "tokens_per_second": ("tokens_per_second",),
    "peak_memory_bytes": ("peak_memory_bytes",),
    "training_seconds": ("seconds", "training"),
}
CSV_COLUMNS = (
    *("kind", "group", "metric", "n", "mean", "low", "high"),
    *("trivial_baseline", "runs", *_STATUSES, *COST_COLUMNS),
    *("best_validation", "best_step", "last_validation", "area_under_curve"),
    *("steps_to_threshold", "baseline"),
    *("difference_n", "difference", "difference_low", "difference_high", "difference_confidence"),
    *("p_value", "adjusted_p_value", "effect_size"),
)


def csv_text(comparison: Comparison) -> str:
    """The text of ``report.csv``."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CSV_COLUMNS)
    writer.writeheader()
    writer.writerows({key: cell(it) for key, it in row.items()} for row in csv_rows(comparison))
    return text.getvalue()


def csv_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A row for each test metric of every group, of the trivial and of each shortcut baseline.

    The ``kind`` of a row is "group", "trivial_baseline" or "shortcut_baseline". Missing values are
    left out.
    """
    for metric in (*comparison.metrics, *comparison.slice_metrics):
        differences = {d.group: d for d in comparison.to_baseline(metric)}
        for group in comparison.groups:
            row = {"kind": "group", "group": group.label, "metric": metric, "n": 0}
            if interval := group.interval(metric):
                low, high = _shown_ends(interval)
                row |= {"n": interval.n, "mean": interval.mean, "low": low, "high": high}
            row |= {
                "trivial_baseline": comparison.baselines.trivial.get(metric),
                **_run_columns(group),
            }
            if metric == comparison.monitor:
                row |= _training_columns(group, metric)
            if group in differences:
                row |= _difference_columns(differences[group])
            yield {name: "" if _is_nan(value) else value for name, value in row.items()}
        known = [("trivial_baseline", "trivial baseline", comparison.baselines.trivial)]
        shortcuts = comparison.baselines.shortcuts
        known += [("shortcut_baseline", name, each) for name, each in shortcuts.items()]
        for kind, name, values in known:
            if metric in values:
                yield {"kind": kind, "group": name, "metric": metric, "mean": values[metric]}


def _run_columns(group: Group) -> dict[str, Any]:
    """The number of runs by status, and their costs."""
    return {
        "runs": len(group.runs),
        **{status: group.counts[status] for status in _STATUSES},
        **{name: group.median(*keys) for name, keys in COST_COLUMNS.items()},
    }


def _training_columns(group: Group, metric: str) -> dict[str, Any]:
    """The course of training, in the monitored metric."""
    means = {
        "best_validation": group.mean("validation", metric),
        "last_validation": group.mean("last", metric),
        "area_under_curve": group.mean("area_under_curve", metric=metric),
    }
    return {
        **{name: interval and interval.mean for name, interval in means.items()},
        "best_step": group.median("best_step"),
        "steps_to_threshold": group.steps_to_threshold,
    }


def _difference_columns(difference: Difference) -> dict[str, Any]:
    interval = difference.interval
    low, high = _shown_ends(interval)
    return {
        "baseline": difference.reference.label,
        "difference_n": interval.n,
        "difference": interval.mean,
        "difference_low": low,
        "difference_high": high,
        "difference_confidence": difference.confidence,
        "p_value": difference.p_value,
        "adjusted_p_value": difference.adjusted_p,
        "effect_size": difference.effect_size,
    }


def _shown_ends(interval: Interval) -> tuple[float, float]:
    """The ends of an interval; NaN where the page shows none."""
    return interval.ends if interval.is_bounded else (math.nan, math.nan)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
