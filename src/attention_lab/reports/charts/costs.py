"""Charts of quality against cost."""

from typing import TYPE_CHECKING, Any

from attention_lab.reports.charts.canvas import MIN_SPAN, WIDTH, axes_at, range_of, scale, svg
from attention_lab.reports.charts.styles import colour, fill_colour, group_styles
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.costs import COSTS, Cost, cost_points, costs_differ, pareto_front
from attention_lab.reports.formatting import axis_unit, column_title
from attention_lab.reports.groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _TOP, _LEFT, _GAP, _RIGHT = 230, 12, 64, 34, 20
#: The ratio of the greatest to the smallest value from which on an axis is logarithmic.
_WIDE_RANGE = 20


def cost_chart(comparison: Comparison) -> str:
    """The first metric against each cost that differs, as an SVG element; "" if none differs.

    Large dots are Pareto-optimal. Groups without a style are grey.
    """
    costs = [cost for cost in COSTS if costs_differ(comparison, cost)]
    if not costs:
        return ""
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(costs) - 1)) / len(costs)

    def draw(figure: "Figure") -> None:
        for column, cost in enumerate(costs):
            left = _LEFT + column * (width + _GAP)
            axes = axes_at(figure, left, _TOP, width, _HEIGHT)
            _draw(axes, comparison, cost)
            if column == 0:
                axes.set_ylabel(column_title(comparison.metrics[0]), labelpad=8)
            else:
                axes.tick_params(labelleft=False)

    return svg("costs", _TOP + _HEIGHT + 56, draw)


def _draw(axes: "Axes", comparison: Comparison, cost: Cost) -> None:
    metric = comparison.metrics[0]
    known, best = cost_points(comparison, cost), pareto_front(comparison, cost)
    shown = group_styles(comparison)
    factor = scale(metric)
    size, unit = axis_unit(max(value for _, value, _ in known), cost.unit)
    known = [(group, value / size, mean) for group, value, mean in known]
    for group, value, mean in known:
        number = shown.get(group)
        style: dict[str, Any] = {"color": colour(number), "markerfacecolor": fill_colour(number)}
        axes.plot([value] * 2, _whisker(group, metric), color=style["color"], alpha=0.45)
        width = 10 if group in best else 6
        axes.plot(value, factor * mean, "o", markersize=width, clip_on=False, **style)
    axes.set_ylim(*_values(comparison))
    _scale_cost(axes, [value for _, value, _ in known], unit)
    axes.set_xlabel(f"{cost.name} ({'higher' if cost.is_speed else 'lower'} is better)", labelpad=8)


def _whisker(group: Group, metric: str) -> tuple[float, float]:
    """The ends of a group's interval in the chart; for one seed, its value twice."""
    interval = group.interval(metric)
    assert interval is not None  # it has a mean
    low, high = interval.ends
    return scale(metric) * low, scale(metric) * high


def _values(comparison: Comparison) -> tuple[float, float]:
    """The range of the metric in all charts: that of the seeds, not of the intervals."""
    metric = comparison.metrics[0]
    scores = [score for group in comparison.groups for score in group.scores(metric).values()]
    return range_of([scale(metric) * score for score in scores], metric)


def _scale_cost(axes: "Axes", values: list[float], unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = min(values), max(values)
    if low > 0 and high > _WIDE_RANGE * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        margin = max(0.12 * (high - low), MIN_SPAN * high)  # equal costs stay close together
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="x", pad=9)  # clear of marks at the lower end
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} {unit}".strip()))
