"""The charts of test results: mean, interval and seeds of each group, and the baselines."""

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from attention_lab.reports.charts.axis import Axis, clip_to_bounds, range_of, scale
from attention_lab.reports.charts.styles import colour, group_styles, shown_groups
from attention_lab.reports.charts.svg import (
    CHARACTER,
    LINE_HEIGHT,
    NARROWEST,
    Chart,
    listed,
    shorten,
    side_by_side,
)
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import (
    column_title,
    format_interval,
    format_value,
    format_with_unit,
)
from attention_lab.reports.groups import Group
from attention_lab.reports.stats import Interval

#: The height of a row and, from its top, of its label, its interval and its seeds, in pixels.
_ROW, _LABEL, _INTERVAL, _SEEDS = 36, 12, 21, 30
#: The most seeds whose values a tooltip lists.
_MAX_LISTED = 10


def interval_chart(comparison: Comparison) -> str:
    """Mean, interval and single seeds of each group, beside the baselines, as SVG elements.

    Shows the metric that groups are compared by, then others that the trivial baseline has; at
    most three.
    """
    known = [metric for metric in comparison.metrics[1:] if metric in comparison.baselines.trivial]
    metrics = [*comparison.metrics[:1], *known][:3]
    return side_by_side(_chart(comparison, metric) for metric in metrics)


def _chart(comparison: Comparison, metric: str) -> Chart:
    baselines = comparison.baselines.by_name
    chart = Chart(
        _description(comparison, metric),
        _ROW * len(shown_groups(comparison)),
        Axis(*_limits(comparison, metric)),
        margins=(10 + LINE_HEIGHT * max(1, len(baselines)), 14, 46, 12),
    )
    chart.draw_x({value: f"{value:g}" for value in chart.x.ticks(5)}, _title(comparison, metric))
    for line, (name, values) in enumerate(baselines.items()):
        if metric in values:
            text = f"{shorten(name)} {format_with_unit(metric, values[metric])}"
            _draw_baseline(chart, scale(metric) * values[metric], text, -6 - LINE_HEIGHT * line)
    styles = group_styles(comparison)
    for row, group in enumerate(shown_groups(comparison)):
        _draw_group(chart, group, styles.get(group), metric, _ROW * row)
    return chart


def _title(comparison: Comparison, metric: str) -> str:
    direction = "higher" if comparison.mode == "max" else "lower"
    is_first = metric == comparison.metrics[0]
    return column_title(metric) + (f" ({direction} is better)" if is_first else "")


def _description(comparison: Comparison, metric: str) -> str:
    groups = [
        f"{group.label} {format_value(metric, interval.mean)} {format_interval(metric, interval)}"
        for group in shown_groups(comparison)
        if (interval := group.interval(metric))
    ]
    known = [
        f"{name} {format_value(metric, values[metric])}"
        for name, values in comparison.baselines.by_name.items()
        if metric in values
    ]
    return f"{column_title(metric)} on test: {listed(groups)}. {listed(known)}".strip()


def _draw_group(chart: Chart, group: Group, style: int | None, metric: str, top: float) -> None:
    if interval := group.interval(metric):
        seeds = [
            f"seed {seed}: {format_with_unit(metric, score)}"
            for seed, score in group.scores(metric).items()
        ]
        values = f"{format_with_unit(metric, interval.mean)} {format_interval(metric, interval)}"
        tooltip = "\n".join([group.label, values, *seeds[:_MAX_LISTED]])
        mark = chart.row(top, _ROW, tooltip)
        if chart.x.contains(scale(metric) * interval.mean):
            _draw_interval(chart, mark, interval, style, metric, top)
        else:
            _point_beyond(chart, metric, interval.mean, top + _INTERVAL)
    chart.write(shorten(group.label), "0", top + _LABEL, "start", class_="label")


def _draw_interval(
    chart: Chart, mark: Element, interval: Interval, style: int | None, metric: str, top: float
) -> None:
    low, high = (scale(metric) * end for end in interval.ends)
    left, right, row = chart.x.clip(low), chart.x.clip(high), top + _INTERVAL
    chart.interval(mark, (left, row), (right, row), style)
    # An interval that continues beyond the edge has an arrowhead in the margin.
    if low < left:
        chart.write("◂", "0", row + 5, "end", class_="arrowhead", fill=colour(style))
    if high > right:
        chart.write("▸", "100%", row + 5, "start", class_="arrowhead", fill=colour(style))
    for value in interval.values:
        if chart.x.contains(scale(metric) * value):
            chart.dot(mark, (scale(metric) * value, top + _SEEDS), 2, style)
    chart.dot(mark, (scale(metric) * interval.mean, row), 5, style)


def _point_beyond(chart: Chart, metric: str, mean: float, row: float) -> None:
    """Write a mean beyond the edge, with an arrow."""
    text = format_value(metric, mean)
    if scale(metric) * mean > chart.x.high:
        chart.write(f"{text} →", "100%", row + 6, "end")
    else:
        chart.write(f"← {text}", "0", row + 6, "start")


def _limits(comparison: Comparison, metric: str) -> tuple[float, float]:
    """The range of an axis: it covers the groups, and baselines that are not far from them."""
    factor = scale(metric)
    spans, values = [], []
    for group in shown_groups(comparison):
        if interval := group.interval(metric):
            seeds = [factor * score for score in group.scores(metric).values()]
            spans.append(_span(seeds, *(factor * end for end in interval.ends)))
            values += seeds
    low, high = range_of([end for span in _without_outliers(spans) for end in span], metric)
    reach = 3 * (high - low)
    for known in comparison.baselines.by_name.values():
        value = factor * known.get(metric, math.nan)
        if low - reach <= value <= high + reach:
            margin = 0.04 * (high - low)
            low, high = min(low, value - margin), max(high, value + margin)
            values.append(value)
    return clip_to_bounds(metric, low, high, values)


def _span(seeds: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """The range of a group: its interval, limited if it is far wider than the seeds."""
    first, last = min(seeds), max(seeds)
    room = 2 * (last - first)
    return max(min(low, first), first - room), min(max(high, last), last + room)


def _without_outliers(spans: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """The spans without outliers, beside which the others would fill less than a quarter."""
    kept = sorted(spans) or [(0.0, 1.0)]
    while len(kept) > 2:
        fewer = min(kept[1:], kept[:-1], key=_width)
        if _width(kept) < 4 * _width(fewer):
            break
        kept = fewer
    return kept


def _width(spans: Sequence[tuple[float, float]]) -> float:
    return max(high for _, high in spans) - min(low for low, _ in spans)


def _draw_baseline(chart: Chart, value: float, label: str, top: float) -> None:
    """Draw a dashed line, and its label above the axes.

    For a value beyond the range there is no line, only the label with an arrow.
    """
    place = chart.x.place(value)
    if 0 <= place <= 1:
        chart.draw_vertical(value, "dashed")
    else:
        label = f"{label} →" if place > 1 else f"← {label}"
    half = CHARACTER * len(label) / 2 / NARROWEST
    if place + half > 1:
        chart.write(label, "100%", top, "end")
    elif place - half < 0:
        chart.write(label, "0", top, "start")
    else:
        chart.write(label, f"{100 * place:.5g}%", top)
