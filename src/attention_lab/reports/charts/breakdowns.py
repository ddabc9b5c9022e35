"""Charts of a metric by slice, such as accuracy by length."""

from attention_lab.reports.breakdowns import Breakdown
from attention_lab.reports.charts.axis import Axis, range_of, scale
from attention_lab.reports.charts.styles import group_styles
from attention_lab.reports.charts.svg import Chart, listed, side_by_side
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import (
    column_title,
    format_interval,
    format_value,
    format_with_unit,
)
from attention_lab.reports.groups import Group
from attention_lab.reports.metrics import is_rate
from attention_lab.reports.stats import Interval

_HEIGHT = 240
#: The share of a slice's width over which its groups are spread, so that none hides another.
_SPREAD = 0.5


def breakdown_chart(comparison: Comparison, breakdown: Breakdown) -> str:
    """Mean and interval of each group on each slice, as an SVG element.

    Only groups with a style are drawn.
    """
    shown, factor = group_styles(comparison), scale(breakdown.metric)
    columns = list(breakdown.columns.values())
    means = {group: [group.interval(column) for column in columns] for group in shown}
    trivial = [comparison.baselines.trivial.get(name) for name in columns]
    known = [factor * each.mean for row in means.values() for each in row if each]
    known += [factor * value for value in trivial if value is not None]
    whole = (min([0.0, *known]), max([100.0, *known]))  # an error rate may exceed 100 %
    limits = whole if is_rate(breakdown.metric) else range_of(known or [0.0], breakdown.metric)
    chart = Chart(
        _description(breakdown, means),
        _HEIGHT,
        Axis(-0.5, len(columns) - 0.5),
        Axis(*limits),
    )
    chart.draw_x(dict(enumerate(breakdown.columns)), breakdown.kind)
    chart.draw_y(column_title(breakdown.metric))
    for index, (name, value) in enumerate(zip(breakdown.columns, trivial, strict=True)):
        rows = [_row(breakdown.metric, group, row[index]) for group, row in means.items()]
        chart.column(
            index - 0.5, index + 0.5, index, "\n".join([f"{breakdown.kind} {name}", *rows])
        )
        if value is not None:
            chart.draw_level(factor * value, index - 0.4, index + 0.4)
    for group, style in shown.items():
        shift = _SPREAD * ((style + 0.5) / len(shown) - 0.5)
        _draw(chart, means[group], style, breakdown, shift)
    return side_by_side([chart])


def _row(metric: str, group: Group, interval: Interval | None) -> str:
    if interval is None:
        return f"{group.label} –"
    return (
        f"{group.label} {format_with_unit(metric, interval.mean)} "
        f"{format_interval(metric, interval)}"
    )


def _description(breakdown: Breakdown, means: dict[Group, list[Interval | None]]) -> str:
    metric = breakdown.metric
    rows = []
    for group, row in means.items():
        values = [format_value(metric, each.mean if each else None) for each in row]
        rows.append(f"{group.label} {', '.join(values)}")
    slices = ", ".join(breakdown.columns)
    return f"{column_title(metric)} by {breakdown.kind} ({slices}): {listed(rows)}."


def _draw(
    chart: Chart, means: list[Interval | None], style: int, breakdown: Breakdown, shift: float
) -> None:
    assert chart.y is not None
    factor = scale(breakdown.metric)
    known = {index + shift: each for index, each in enumerate(means) if each}
    if breakdown.is_ordered and known:
        chart.curve([(x, factor * each.mean) for x, each in known.items()], style)
    for x, each in known.items():
        low, high = (chart.y.clip(factor * end) for end in each.ends)
        chart.interval(chart.element, (x, low), (x, high), style)
        chart.dot(chart.element, (x, factor * each.mean), 3.5, style)
