"""Charts of quality against cost."""

from attention_lab.reports.charts.axis import MIN_SPAN, Axis, range_of, scale
from attention_lab.reports.charts.styles import group_styles
from attention_lab.reports.charts.svg import Chart, listed, side_by_side
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.costs import COSTS, Cost, cost_points, costs_differ, pareto_front
from attention_lab.reports.formatting import (
    axis_unit,
    column_title,
    format_interval,
    format_value,
    format_with_unit,
)

_HEIGHT = 200
#: The ratio of the greatest to the smallest value from which on an axis is logarithmic.
_WIDE_RANGE = 20


def cost_chart(comparison: Comparison) -> str:
    """The first metric against each cost that differs, as SVG elements; "" if none differs.

    Large dots are Pareto-optimal. Groups without a style are grey.
    """
    costs = [cost for cost in COSTS if costs_differ(comparison, cost)]
    return side_by_side(_chart(comparison, cost) for cost in costs) if costs else ""


def _chart(comparison: Comparison, cost: Cost) -> Chart:
    metric = comparison.metrics[0]
    points, best = cost_points(comparison, cost), {*pareto_front(comparison, cost)}
    described = [
        f"{group.label} {format_value(metric, mean)} at {cost.format(value)}"
        for group, value, mean in points
    ]
    description = f"{column_title(metric)} on test against {cost.name}: {listed(described)}."
    size, unit = axis_unit(max(value for _, value, _ in points), cost.unit)
    x, y = _cost_axis([value / size for _, value, _ in points]), Axis(*_values(comparison))
    chart = Chart(description, _HEIGHT, x, y)
    direction = "higher" if cost.is_speed else "lower"
    ticks = {value: f"{value:g} {unit}".strip() for value in x.ticks(3)}
    chart.draw_x(ticks, f"{cost.name} ({direction} is better)")
    chart.draw_y(column_title(metric))
    styles = group_styles(comparison)
    for group, value, mean in points:
        interval = group.interval(metric)
        assert interval is not None  # it has a mean
        quality = f"{format_with_unit(metric, mean)} {format_interval(metric, interval)}"
        mark = chart.mark(f"{group.label}\n{quality}\n{cost.name} {cost.format(value)}")
        low, high = (y.clip(scale(metric) * end) for end in interval.ends)
        chart.interval(mark, (value / size, low), (value / size, high), styles.get(group))
        radius = 5.5 if group in best else 3.5
        chart.dot(mark, (value / size, scale(metric) * mean), radius, styles.get(group))
    return chart


def _values(comparison: Comparison) -> tuple[float, float]:
    """The range of the metric in all charts: that of the seeds, not of the intervals."""
    metric = comparison.metrics[0]
    scores = [score for group in comparison.groups for score in group.scores(metric).values()]
    return range_of([scale(metric) * score for score in scores], metric)


def _cost_axis(values: list[float]) -> Axis:
    low, high = min(values), max(values)
    if low > 0 and high > _WIDE_RANGE * low:
        return Axis(low / 1.3, high * 1.3, is_logarithmic=True)
    # Equal costs stay close together.
    margin = max(0.12 * (high - low), MIN_SPAN * abs(high))
    return Axis(low - margin, high + margin)
