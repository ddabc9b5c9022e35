"""The learning curves: a validation metric by training step."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attention_lab.reports.charts.canvas import (
    CHARACTER,
    LINE_HEIGHT,
    WIDTH,
    axes_at,
    range_of,
    scale,
    shorten,
    svg,
)
from attention_lab.reports.charts.styles import SOFT, colour, fill_colour, group_styles, is_hollow
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import column_title, format_with_unit
from attention_lab.reports.groups import Group
from attention_lab.reports.stats import Interval, mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _TOP, _LEFT = 340, 12, 68
#: The most points of a curve that are marked; a single point would be invisible without a mark.
_MAX_MARKED = 12

Curve = Mapping[int, Interval]


def learning_chart(comparison: Comparison) -> str:
    """The first metric on validation by training step, as an SVG element; "" without curves.

    A line is the mean over the finished seeds of a group, and a band its 95 % interval, at the
    steps that all seeds have logged. Only groups with a style
    are drawn.
    """
    metric = next(iter(comparison.metrics), "loss")
    shown = group_styles(comparison)
    curves = {
        style: curve for group, style in shown.items() if (curve := learning_curve(group, metric))
    }
    if not curves:
        return ""
    labels = {style: shorten(group.label) for group, style in shown.items() if style in curves}
    right = 24 + CHARACTER * max(map(len, labels.values()))
    threshold = comparison.threshold if metric == comparison.monitor else None

    def draw(figure: "Figure") -> None:
        axes = axes_at(figure, _LEFT, _TOP, WIDTH - _LEFT - right, _HEIGHT)
        _scale_values(axes, comparison.mode, curves, metric)
        _scale_steps(axes, curves)
        for style, curve in curves.items():
            _draw_curve(axes, style, curve, metric)
        if threshold is not None:
            _draw_threshold(axes, metric, threshold)
        axes.set_xlabel("training step", labelpad=8)
        axes.set_ylabel(f"validation {column_title(metric)}", labelpad=8)
        _label_lines(axes, {style: _last(curve).mean for style, curve in curves.items()}, labels)

    return svg("learning", _TOP + _HEIGHT + 50, draw)


def learning_curve(group: Group, metric: str) -> dict[int, Interval]:
    """Mean and interval over the finished seeds, in chart units, at each step that all logged."""
    factor = scale(metric)
    series = [run.curve(f"validation/{metric}") for run in group.finished]
    shared = set.intersection(*map(set, series)) if series else set()
    low, high = group.bounds(metric)
    bounds = factor * low, factor * high
    return {
        step: mean_interval([factor * values[step] for values in series], bounds=bounds)
        for step in sorted(shared)
    }


def _last(curve: Curve) -> Interval:
    return curve[max(curve)]


def _scale_values(axes: "Axes", mode: str, curves: Mapping[int, Curve], metric: str) -> None:
    """Set limits from the means and bands; bands far wider than the means are cut."""
    from matplotlib.ticker import LogLocator, NullLocator

    points = [point for curve in curves.values() for point in curve.values()]
    means = [point.mean for point in points]
    low, high = min(means), max(means)
    room = (high - low) / 2
    ends = [end for point in points if point.is_bounded for end in (point.low, point.high)]
    kept = [min(max(end, low - room), high + room) for end in ends]
    if mode == "min" and 0 < 3 * low < high:
        axes.set_yscale("log")  # separates the ends of curves that fall towards zero
        axes.set_ylim(0.9 * max(min(means + kept), low / 2), 1.1 * max(means + kept))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(*range_of(means + kept, metric))
    axes.yaxis.set_major_formatter("{x:g}")


def _scale_steps(axes: "Axes", curves: Mapping[int, Curve]) -> None:
    from matplotlib.ticker import MaxNLocator

    steps = [step for curve in curves.values() for step in curve]
    first, last = min(steps), max(steps)
    margin = 0.01 * (last - first) or 1.0
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _draw_curve(axes: "Axes", number: int, curve: Curve, metric: str) -> None:
    steps, means = list(curve), [point.mean for point in curve.values()]
    bounded = {step: point for step, point in curve.items() if point.is_bounded}
    lows, highs = [p.low for p in bounded.values()], [p.high for p in bounded.values()]
    line = "--" if is_hollow(number) else "-"
    style: dict[str, Any] = {"color": colour(number), "linewidth": 2, "linestyle": line}
    if len(bounded) == 1:  # a band would have no width
        axes.plot(list(bounded) * 2, [*lows, *highs], color=colour(number), alpha=0.3, linewidth=6)
    axes.fill_between(list(bounded), lows, highs, color=colour(number), alpha=0.12, linewidth=0)
    for edge in (lows, highs):
        axes.plot(list(bounded), edge, color=colour(number), alpha=0.35, linewidth=0.8)
    if len(steps) <= _MAX_MARKED:
        style |= {"marker": "o", "markersize": 6, "markerfacecolor": fill_colour(number)}
    axes.plot(steps, means, **style)


def _draw_threshold(axes: "Axes", metric: str, threshold: float) -> None:
    """Draw the threshold as a dashed line or, beyond the range, as a note with an arrow."""
    low, high = axes.get_ylim()
    value, text = scale(metric) * threshold, f"threshold {format_with_unit(metric, threshold)}"
    is_above = value > high
    if low <= value <= high:
        axes.axhline(value, color=SOFT, linewidth=1.2, dashes=(4, 3))
        place, up = (value - low) / (high - low), 5
        if axes.get_yscale() == "log":
            place = math.log(value / low) / math.log(high / low)
    else:
        text, place, up = f"{text} {'↑' if is_above else '↓'}", float(is_above), -12 * is_above + 5
    axes.annotate(
        text,
        (1, place),
        (-4, up),
        xycoords="axes fraction",
        textcoords="offset points",
        color=SOFT,
        ha="right",
    )


def _label_lines(axes: "Axes", ends: Mapping[int, float], labels: Mapping[int, str]) -> None:
    """Label each line to the right of its end, moved up or down where labels would collide."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    gap = LINE_HEIGHT / _HEIGHT
    place, ceiling = -math.inf, 1.0
    places = {}
    for style in sorted(ends, key=lambda style: ends[style]):
        place = max(place + gap, to_fraction.transform((0, ends[style]))[1])
        places[style] = place
    for style, place in reversed(places.items()):
        ceiling = min(ceiling, place)
        axes.plot(
            *(1.015, ceiling, "o"),
            color=colour(style),
            markerfacecolor=fill_colour(style),
            markersize=6,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(1.03, ceiling, labels[style], va="center_baseline", transform=axes.transAxes)
        ceiling -= gap
