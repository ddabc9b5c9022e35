"""Format metrics, quantities and statuses as text for the table, the page and the charts."""

import math

from attention_lab.quantities import SIZES, TIMES
from attention_lab.reports.groups import Group
from attention_lab.reports.metrics import is_rate
from attention_lab.reports.runs import RecordedRun
from attention_lab.reports.stats import Interval


def metric_name(metric: str) -> str:
    """A metric's name for readers: "PER", "token accuracy"."""
    return metric.upper() if len(metric) <= 3 else metric.replace("_", " ")


def column_title(metric: str, unit: str = "%") -> str:
    """A metric's name with its unit, if it is a rate: "PER, %", "loss"."""
    return metric_name(metric) + (f", {unit}" if is_rate(metric) else "")


def format_value(metric: str, value: float | None) -> str:
    """A metric's value without its unit: percent with one decimal, anything else with three."""
    if value is None:
        return "–"
    return (f"{100 * value:z.1f}" if is_rate(metric) else f"{value:z.3f}").replace("-", "−")


def format_interval(metric: str, interval: Interval) -> str:
    """An interval as "[11.9, 12.7]"; the values of two seeds; or why there is no interval."""
    if not interval.is_bounded:
        values = ", ".join(format_value(metric, value) for value in interval.values)
        return {1: "(one seed)", 2: f"({values})"}.get(interval.n, "(all equal)")
    return f"[{format_value(metric, interval.low)}, {format_value(metric, interval.high)}]"


def capitalize(text: str) -> str:
    """The text with a capital first letter; the rest is unchanged."""
    return text[:1].upper() + text[1:]


def format_with_unit(metric: str, value: float, unit: str = "%") -> str:
    """A metric's value with its unit: "12.3 %", "1.204"."""
    return format_value(metric, value) + (f" {unit}" if is_rate(metric) else "")


def format_p_value(p: float, relation: str = "=") -> str:
    """A p-value as "p = 0.012", "p < 0.001", or "no p" where no test is possible."""
    if math.isnan(p):
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p {relation} {p:.2g}"


def format_effect_size(g: float) -> str:
    """An effect size as "g = −1.2", or "no g" where there is none."""
    return "no g" if math.isnan(g) else f"g = {g:z.1f}".replace("-", "−")


def axis_unit(largest: float, unit: str) -> tuple[float, str]:
    """The size and the name of the unit for an axis that ends at ``largest``.

    Args:
        largest: the greatest value.
        unit: "s" for seconds, "B" for bytes, "" for counts.
    """
    if unit == "s":
        return next(((size, name) for size, name in TIMES if largest >= size), (1.0, "s"))
    return next(((size, f"{name}{unit}") for size, name in SIZES if largest >= size), (1.0, unit))


def format_seed_count(group: Group) -> str:
    """The number of finished seeds: "5", or "4/5" where runs are missing."""
    seeds, finished = {run.seed for run in group.runs}, len(group.finished)
    return str(finished) if finished == len(seeds) else f"{finished}/{len(seeds)}"


def format_status(run: RecordedRun) -> str:
    """A run's status for readers."""
    return "not started" if run.status == "waiting" else run.status


def failure_reason(run: RecordedRun) -> str:
    """Why a run has no result, in one line."""
    if run.status == "running":
        return "has not finished yet"
    return str(run.error or "").strip().partition("\n")[0] or "gave no reason"
