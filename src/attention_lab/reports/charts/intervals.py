"""The chart of test results: mean, interval and seeds of each group, and the baselines."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attention_lab.reports.charts.canvas import (
    CHARACTER,
    LINE_HEIGHT,
    WIDTH,
    axes_at,
    clip_to_bounds,
    range_of,
    scale,
    shorten,
    svg,
)
from attention_lab.reports.charts.styles import INK, SOFT, colour, fill_colour, group_styles
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import column_title, format_value, format_with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW, _GAP, _MARGIN = 36, 44, 18


def interval_chart(comparison: Comparison) -> str:
    """Mean, interval and single seeds of each group, beside the baselines, as an SVG element.

    Shows the metric that groups are compared by, then others that the trivial baseline has; at
    most three.
    """
    known = [metric for metric in comparison.metrics[1:] if metric in comparison.baselines.trivial]
    metrics = [*comparison.metrics[:1], *known][:3]
    labels = [shorten(group.label) for group in comparison.groups]
    left = 24 + CHARACTER * max(map(len, labels))
    height = _ROW * len(labels)
    width = (WIDTH - left - _GAP * (len(metrics) - 1) - _MARGIN) / len(metrics)
    top = 13 + LINE_HEIGHT * max(1, len(comparison.baselines.by_name))

    def draw(figure: "Figure") -> None:
        for column, metric in enumerate(metrics):
            axes = axes_at(figure, left + column * (width + _GAP), top, width, height)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels))
            axes.tick_params(axis="y", labelcolor=INK, pad=12)
            axes.grid(visible=False, axis="y")
            axes.set_xlim(*_limits(comparison, metric))
            _draw_groups(axes, comparison, metric)
            for line, (name, values) in enumerate(comparison.baselines.by_name.items()):
                if metric in values:
                    text = f"{name} {format_with_unit(metric, values[metric])}"
                    above = 7 + LINE_HEIGHT * line
                    _draw_baseline(axes, scale(metric) * values[metric], text, above, width)
            axes.set_xlabel(_label(comparison, metric, width), labelpad=8)

    return svg("intervals", top + height + 50, draw)


def _label(comparison: Comparison, metric: str, width: float) -> str:
    direction = "higher" if comparison.mode == "max" else "lower"
    whole = f"{column_title(metric)} ({direction} is better)"
    is_first = metric == comparison.metrics[0]
    return whole if is_first and CHARACTER * len(whole) < width else column_title(metric)


def _draw_groups(axes: "Axes", comparison: Comparison, metric: str) -> None:
    left, right = axes.get_xlim()
    known = group_styles(comparison)
    for row, group in enumerate(comparison.groups):
        interval = group.interval(metric)
        if interval is None:
            continue
        mean, low, high = (scale(metric) * x for x in (interval.mean, *interval.ends))
        if not left <= mean <= right:
            _point_beyond(axes, mean, row, format_value(metric, interval.mean))
            continue
        seeds = [scale(metric) * score for score in group.scores(metric).values()]
        number = known.get(group)
        style: dict[str, Any] = {"color": colour(number), "clip_on": False}
        seeds = [seed for seed in seeds if left <= seed <= right]
        beneath = [row + 0.28] * len(seeds)
        axes.plot(seeds, beneath, "o", alpha=0.6, markersize=4.5, mew=0, **style)
        axes.plot([max(low, left), min(high, right)], [row, row], linewidth=2.5, **style)
        for end, marker, is_cut in ((left, "<", low < left), (right, ">", high > right)):
            if is_cut:  # the interval continues beyond the edge
                axes.plot(end, row, marker, markersize=6, mew=0, gid="arrowhead", **style)
        axes.plot(mean, row, "o", markerfacecolor=fill_colour(number), markersize=8, **style)


def _limits(comparison: Comparison, metric: str) -> tuple[float, float]:
    """The range of an axis: it covers the groups, and baselines that are not far from them."""
    factor = scale(metric)
    spans, values = [], []
    for group in comparison.groups:
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


def _point_beyond(axes: "Axes", value: float, row: int, text: str) -> None:
    """Draw a value beyond the edge as text with an arrow."""
    low, high = axes.get_xlim()
    is_right = value > high
    axes.annotate(
        f"{text} →" if is_right else f"← {text}",
        (high if is_right else low, row),
        (-10 if is_right else 10, 0),
        textcoords="offset points",
        va="center",
        ha="right" if is_right else "left",
    )


def _draw_baseline(axes: "Axes", value: float, label: str, above: float, width: float) -> None:
    """Draw a dashed line, and its label ``above`` the axes in points.

    For a value beyond the range there is no line, only the label with an arrow.
    """
    low, high = axes.get_xlim()
    place = (value - low) / (high - low)
    if 0 <= place <= 1:
        axes.axvline(value, color=SOFT, linewidth=1.2, dashes=(4, 3))
    half = CHARACTER * len(label) / 2 / width
    x, align = place, "center"
    if place + half > 1:
        x, align = 1, "right"
    elif place - half < 0:
        x, align = 0, "left"
    if not 0 <= place <= 1:
        label = f"{label} →" if place > 1 else f"← {label}"
    axes.annotate(
        label,
        (x, 1),
        (0, above),
        xycoords="axes fraction",
        textcoords="offset points",
        color=SOFT,
        ha=align,
    )
