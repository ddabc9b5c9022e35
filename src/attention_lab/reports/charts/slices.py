"""The charts of a metric by slice: by length, by number of pairs."""

from typing import TYPE_CHECKING

from attention_lab.reports.charts.canvas import (
    SOFT,
    WIDTH,
    axes_at,
    colour,
    face,
    is_hollow,
    looks,
    scale,
    svg,
)
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group
from attention_lab.reports.labels import column_title, is_rate
from attention_lab.reports.slices import Sliced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _TOP, _LEFT, _RIGHT = 240, 12, 68, 18
#: The share of a slice's room over which its groups are spread, so that none hides another.
_SPREAD = 0.5


def slice_chart(comparison: Comparison, sliced: Sliced, number: int) -> str:
    """Mean and interval of each group on each slice, as an SVG element.

    Of many groups it shows the best, as many as have a look of their own.

    Args:
        comparison: the groups.
        sliced: the slices.
        number: of the chart among those of slices, for its name.
    """
    shown = looks(comparison)

    def draw(figure: "Figure") -> None:
        axes = axes_at(figure, _LEFT, _TOP, WIDTH - _LEFT - _RIGHT, _HEIGHT)
        for group, look in shown.items():
            shift = _SPREAD * ((look + 0.5) / len(shown) - 0.5)
            _draw(axes, group, look, sliced, shift)
        trivial = [comparison.trivial_baseline.get(column) for column in sliced.columns.values()]
        for index, value in enumerate(trivial):
            if value is not None:
                span, height = [index - 0.4, index + 0.4], scale(sliced.metric) * value
                axes.plot(span, [height] * 2, color=SOFT, linewidth=1.2, dashes=(4, 3))
        if is_rate(sliced.metric):
            axes.set_ylim(0, 100)
        axes.set_xlim(-0.5, len(sliced.columns) - 0.5)
        axes.set_xticks(range(len(sliced.columns)), list(sliced.columns))
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="x", pad=9)  # clear of marks at 0
        axes.set_xlabel(sliced.kind, labelpad=8)
        axes.set_ylabel(column_title(sliced.metric), labelpad=8)

    return svg(f"slices-{number}", _TOP + _HEIGHT + 50, draw)


def _draw(axes: "Axes", group: Group, look: int, sliced: Sliced, shift: float) -> None:
    factor = scale(sliced.metric)
    xs, means = [], []
    for index, column in enumerate(sliced.columns.values()):
        if interval := group.interval(column):
            x = index + shift
            xs.append(x)
            means.append(factor * interval.mean)
            if interval.is_bounded:
                ends = [factor * end for end in interval.ends]
                axes.plot([x, x], ends, color=colour(look), alpha=0.5, linewidth=2)
    line = ("--" if is_hollow(look) else "-") if sliced.is_ordered else "none"
    axes.plot(
        *(xs, means),
        color=colour(look),
        linestyle=line,
        linewidth=1.2,
        marker="o",
        markersize=7,
        markerfacecolor=face(look),
        clip_on=False,
    )
