"""Curves over training: a validation metric, and summaries of attention."""

from collections.abc import Mapping

from attention_lab.reports.charts.axis import Axis, range_of, scale
from attention_lab.reports.charts.styles import group_styles
from attention_lab.reports.charts.svg import Chart, Point, listed, side_by_side
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.curves import Curve, mean_curve, spread
from attention_lab.reports.formatting import column_title, format_with_unit, metric_name
from attention_lab.reports.groups import Group

_HEIGHT, _SUMMARY_HEIGHT = 280, 170
#: The most points of a curve that are marked; a single point would be invisible without a mark.
_MAX_MARKED = 12
#: The most points of a curve that are drawn, evenly spread over the steps.
_MAX_DRAWN = 400
#: The most steps that have a tooltip.
_MAX_TOOLTIPS, _MAX_SUMMARY_TOOLTIPS = 40, 12

Curves = Mapping[Group, Curve]


def learning_chart(comparison: Comparison) -> str:
    """The first metric on validation by training step, as an SVG element; "" without curves.

    A line is the mean over the finished seeds of a group, and a band its 95 % interval, at the
    steps that all seeds have logged. Only groups with a style are drawn.
    """
    metric = next(iter(comparison.metrics), "loss")
    styles = group_styles(comparison)
    curves = {group: curve for group in styles if (curve := learning_curve(group, metric))}
    if not curves:
        return ""
    title, y = f"validation {column_title(metric)}", _value_axis(comparison.mode, curves, metric)
    chart = Chart(f"{title}: {listed(_ends(curves))}.", _HEIGHT, _step_axis(curves), y)
    for group, curve in curves.items():
        _draw_band(chart, styles[group], curve)
    _draw(chart, title, curves, styles, _MAX_TOOLTIPS)
    if comparison.threshold is not None and metric == comparison.monitor:
        _draw_threshold(chart, metric, comparison.threshold)
    return side_by_side([chart])


def learning_curve(group: Group, metric: str) -> Curve:
    """Mean and interval of a validation metric over the finished seeds, in units of the chart."""
    factor = scale(metric)
    series = [
        {step: factor * value for step, value in run.curve(f"validation/{metric}").items()}
        for run in group.finished
    ]
    low, high = group.bounds(metric)
    return mean_curve(series, (factor * low, factor * high), _MAX_DRAWN)


def summary_charts(comparison: Comparison, name: str, layers: Mapping[str, Curves]) -> str:
    """A summary of attention over training in each layer, as SVG elements.

    Args:
        comparison: the comparison.
        name: the summary, such as "entropy".
        layers: the curves of the groups, by layer.
    """
    charts = []
    for layer, curves in layers.items():
        means = [point.mean for curve in curves.values() for point in curve.values()]
        title = f"{layer}: {metric_name(name)}"
        y = Axis(*range_of(means, name))
        chart = Chart(f"{title}: {listed(_ends(curves))}.", _SUMMARY_HEIGHT, _step_axis(curves), y)
        _draw(chart, title, curves, group_styles(comparison), _MAX_SUMMARY_TOOLTIPS)
        charts.append(chart)
    return side_by_side(charts)


def _draw(
    chart: Chart, title: str, curves: Curves, styles: Mapping[Group, int], tooltips: int
) -> None:
    ticks = chart.x.ticks(4 if chart.height < _HEIGHT else 6, integer=True)
    chart.draw_x({step: f"{step:,.0f}" for step in ticks}, "training step")
    chart.draw_y(title)
    _draw_tooltips(chart, curves, tooltips)
    for group, curve in curves.items():
        chart.curve([(step, point.mean) for step, point in curve.items()], styles[group])
        if len(curve) <= _MAX_MARKED:
            for step, point in curve.items():
                chart.dot(chart.element, (step, point.mean), 3.5, styles[group])


def _ends(curves: Curves) -> list[str]:
    """The first and last mean of each curve in words."""
    return [
        f"{group.label} from {curve[min(curve)].mean:.4g} at step {min(curve):,} "
        f"to {curve[max(curve)].mean:.4g} at step {max(curve):,}"
        for group, curve in curves.items()
    ]


def _value_axis(mode: str, curves: Curves, metric: str) -> Axis:
    """The range of the means and bands; bands far wider than the means are cut."""
    points = [point for curve in curves.values() for point in curve.values()]
    means = [point.mean for point in points]
    low, high = min(means), max(means)
    room = (high - low) / 2
    ends = [end for point in points if point.is_bounded for end in (point.low, point.high)]
    kept = [min(max(end, low - room), high + room) for end in ends]
    if mode == "min" and 0 < 3 * low < high:  # separates the ends of curves that fall towards zero
        least = 0.9 * max(min(means + kept), low / 2)
        return Axis(least, 1.1 * max(means + kept), is_logarithmic=True)
    return Axis(*range_of(means + kept, metric))


def _step_axis(curves: Curves) -> Axis:
    steps = [step for curve in curves.values() for step in curve]
    first, last = min(steps), max(steps)
    margin = 0.01 * (last - first) or 1.0
    return Axis(first - margin, last + margin)


def _draw_tooltips(chart: Chart, curves: Curves, most: int) -> None:
    """Add a column around each of some steps, whose tooltip has the values of all curves."""
    steps = spread(sorted({step for curve in curves.values() for step in curve}), most)
    for index, step in enumerate(steps):
        low = (steps[index - 1] + step) / 2 if index else chart.x.low
        high = (step + steps[index + 1]) / 2 if index + 1 < len(steps) else chart.x.high
        values = [
            f"{group.label} {curve[step].mean:.4g}"
            for group, curve in curves.items()
            if step in curve
        ]
        chart.column(low, high, step, "\n".join([f"step {step:,}", *values]))


def _draw_band(chart: Chart, style: int, curve: Curve) -> None:
    bounded = {step: point for step, point in curve.items() if point.is_bounded}
    lows = [_within(chart, step, point.low) for step, point in bounded.items()]
    highs = [_within(chart, step, point.high) for step, point in bounded.items()]
    if len(bounded) == 1:  # a band would have no width
        chart.interval(chart.element, lows[0], highs[0], style)
    elif bounded:
        chart.band([*lows, *reversed(highs)], style)


def _within(chart: Chart, step: int, value: float) -> Point:
    """A point of a band, at most at the edge of the chart."""
    assert chart.y is not None
    return step, chart.y.clip(value)


def _draw_threshold(chart: Chart, metric: str, threshold: float) -> None:
    """Draw the threshold as a dashed line or, beyond the range, as a note with an arrow."""
    assert chart.y is not None
    value, text = scale(metric) * threshold, f"threshold {format_with_unit(metric, threshold)}"
    if chart.y.contains(value):
        chart.draw_level(value, chart.x.low, chart.x.high)
        chart.write(text, "100%", chart.top(value) - 5, "end")
    elif value > chart.y.high:
        chart.write(f"{text} ↑", "100%", 10, "end")
    else:
        chart.write(f"{text} ↓", "100%", chart.height - 5, "end")
