"""Charts of a metric by slice, such as accuracy by length."""

from typing import TYPE_CHECKING

from attention_lab.reports.breakdowns import Breakdown
from attention_lab.reports.charts.canvas import WIDTH, axes_at, scale, svg
from attention_lab.reports.charts.styles import SOFT, colour, fill_colour, group_styles, is_hollow
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import column_title
from attention_lab.reports.groups import Group
from attention_lab.reports.metrics import is_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _TOP, _LEFT, _RIGHT = 240, 12, 68, 18
#: The share of a slice's width over which its groups are spread, so that none hides another.
_SPREAD = 0.5


def breakdown_chart(comparison: Comparison, breakdown: Breakdown, number: int) -> str:
    """Mean and interval of each group on each slice, as an SVG element.

    Only groups with a style are drawn.

    Args:
        comparison: the groups.
        breakdown: the slices.
        number: a unique number, for the id of the SVG element.
    """
    shown = group_styles(comparison)

    def draw(figure: "Figure") -> None:
        axes = axes_at(figure, _LEFT, _TOP, WIDTH - _LEFT - _RIGHT, _HEIGHT)
        for group, style in shown.items():
            shift = _SPREAD * ((style + 0.5) / len(shown) - 0.5)
            _draw(axes, group, style, breakdown, shift)
        trivial = [comparison.baselines.trivial.get(name) for name in breakdown.columns.values()]
        for index, value in enumerate(trivial):
            if value is not None:
                span, height = [index - 0.4, index + 0.4], scale(breakdown.metric) * value
                axes.plot(span, [height] * 2, color=SOFT, linewidth=1.2, dashes=(4, 3))
        if is_rate(breakdown.metric):
            axes.set_ylim(0, 100)
        axes.set_xlim(-0.5, len(breakdown.columns) - 0.5)
        axes.set_xticks(range(len(breakdown.columns)), list(breakdown.columns))
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="x", pad=9)  # clear of marks at 0
        axes.set_xlabel(breakdown.kind, labelpad=8)
        axes.set_ylabel(column_title(breakdown.metric), labelpad=8)

    return svg(f"slices-{number}", _TOP + _HEIGHT + 50, draw)


def _draw(axes: "Axes", group: Group, style: int, breakdown: Breakdown, shift: float) -> None:
    factor = scale(breakdown.metric)
    xs, means = [], []
    for index, column in enumerate(breakdown.columns.values()):
        if interval := group.interval(column):
            x = index + shift
            xs.append(x)
            means.append(factor * interval.mean)
            if interval.is_bounded:
                ends = [factor * end for end in interval.ends]
                axes.plot([x, x], ends, color=colour(style), alpha=0.5, linewidth=2)
    line = ("--" if is_hollow(style) else "-") if breakdown.is_ordered else "none"
    axes.plot(
        *(xs, means),
        color=colour(style),
        linestyle=line,
        linewidth=1.2,
        marker="o",
        markersize=7,
        markerfacecolor=fill_colour(style),
        clip_on=False,
    )
