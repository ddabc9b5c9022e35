"""How metrics, quantities and outcomes are written, the same in table, page and charts."""

import math

from attention_lab.reports.groups import Group
from attention_lab.reports.runs import Run
from attention_lab.reports.stats import Interval


def title(metric: str) -> str:
    """A metric's name as one writes it: "PER", "token accuracy"."""
    return metric.upper() if len(metric) <= 3 else metric.replace("_", " ")


def is_rate(metric: str) -> bool:
    """Whether a metric is a share, which is shown in percent: error rates and accuracies are."""
    kind = metric.partition("/")[0]
    return kind in ("per", "wer", "cer") or kind.endswith(("accuracy", "error_rate"))


def column_title(metric: str, unit: str = "%") -> str:
    """A metric's name with its unit, if it is a rate: "PER, %", "loss"."""
    return title(metric) + (f", {unit}" if is_rate(metric) else "")


def shown(metric: str, value: float | None) -> str:
    """A metric's value without its unit: percent with one decimal, anything else with three."""
    if value is None:
        return "–"
    return (f"{100 * value:z.1f}" if is_rate(metric) else f"{value:z.3f}").replace("-", "−")


def bounds(metric: str, interval: Interval) -> str:
    """The interval's range, as "[11.9, 12.7]"; the values of two seeds; or why there is none."""
    if not interval.is_bounded:
        values = interval.values
        return {1: "(one seed)", 2: f"({', '.join(shown(metric, value) for value in values)})"}.get(
            interval.n, "(all equal)"
        )
    return f"[{shown(metric, interval.low)}, {shown(metric, interval.high)}]"


def sentence(text: str) -> str:
    """A text that begins with a capital: "Token accuracy"."""
    return text[:1].upper() + text[1:]


def with_unit(metric: str, value: float, unit: str = "%") -> str:
    """A metric's value with its unit: "12.3 %", "1.204"."""
    return shown(metric, value) + (f" {unit}" if is_rate(metric) else "")


def p_value(p: float, relation: str = "=") -> str:
    """A p-value as "p = 0.012", "p < 0.001", or "no p" where nothing could be tested."""
    if math.isnan(p):
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p {relation} {p:.2g}"


def effect(g: float) -> str:
    """An effect size as "g = −1.2", or "no g" where it cannot be said."""
    return "no g" if math.isnan(g) else f"g = {g:z.1f}".replace("-", "−")


_SIZES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIMES = ((3600, "h"), (60, "min"))


def quantity(value: float | None, unit: str = "") -> str:
    """A count to three digits: "1.23 M", "950"; "never" for inf."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "never"
    for size, prefix in _SIZES:
        if value >= size:
            return f"{value / size:#.3g}".rstrip(".") + f" {prefix}{unit}"
    return f"{value:g} {unit}".strip()


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it: "45 s", "3.4 min", "1.2 h"."""
    if seconds is None:
        return "–"
    for size, unit in _TIMES:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def unit_of(largest: float, unit: str) -> tuple[float, str]:
    """The size and the name of the unit for an axis up to a value: of seconds, or of "B" or ""."""
    if unit == "s":
        return next(((size, name) for size, name in _TIMES if largest >= size), (1.0, "s"))
    return next(((size, f"{name}{unit}") for size, name in _SIZES if largest >= size), (1.0, unit))


def finished_of(group: Group) -> str:
    """How many seeds a group's numbers rest on: "5", or "4/5" where runs are missing."""
    seeds, finished = {run.seed for run in group.runs}, len(group.finished)
    return str(finished) if finished == len(seeds) else f"{finished}/{len(seeds)}"


def status(run: Run) -> str:
    """How a run stands, in a word or two."""
    return "not started" if run.status == "waiting" else run.status


def reason(run: Run) -> str:
    """Why a run has no result, in one line."""
    if run.status == "running":
        return "has not finished yet"
    return str(run.error or "").strip().partition("\n")[0] or "gave no reason"
