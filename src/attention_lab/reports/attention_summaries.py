"""Summaries of attention over training, such as entropy, for each group and layer."""

import math
from collections.abc import Mapping
from statistics import fmean

from attention_lab.data.core.metric_info import UNBOUNDED
from attention_lab.reports.curves import Curve, mean_curve
from attention_lab.reports.groups import Group
from attention_lab.reports.runs import RecordedRun, cell_number, csv_rows

#: The most points of a curve.
_MAX_POINTS = 60


def summary_curves(groups: Mapping[Group, int]) -> dict[str, dict[str, dict[Group, Curve]]]:
    """The curves of groups over training, by summary and by layer: means over heads and seeds."""
    found: dict[str, dict[str, dict[Group, Curve]]] = {}
    for group in groups:
        runs = [read_summaries(run) for run in group.finished]
        for summary, layer in runs[0] if runs else ():
            series = [run.get((summary, layer), {}) for run in runs]
            if curve := mean_curve(series, UNBOUNDED, _MAX_POINTS):
                found.setdefault(summary, {}).setdefault(layer, {})[group] = curve
    return found


def read_summaries(run: RecordedRun) -> dict[tuple[str, str], dict[int, float]]:
    """The means over heads by summary and layer, then by step, from ``summaries.csv``."""
    rows = csv_rows(run.directory / "attention" / "summaries.csv", run.directory)
    header = next(rows, list[str]())
    heads: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        step, layer = cell_number(cells.pop("step", "")), cells.pop("layer", "")
        cells.pop("head", None)
        for summary, cell in cells.items():
            if not math.isnan(step + (value := cell_number(cell))):
                steps = heads.setdefault((summary, layer), {})
                steps.setdefault(int(step), []).append(value)
    return {
        key: {step: fmean(values) for step, values in steps.items()} for key, steps in heads.items()
    }
