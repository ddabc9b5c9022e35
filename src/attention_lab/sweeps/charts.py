"""The report's charts: SVG elements in the pixels and the colours of their page."""

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from attention_lab.sweeps.comparison import Comparison
from attention_lab.sweeps.groups import Group
from attention_lab.sweeps.wording import column_title, is_rate, shown, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _LEARNING_HEIGHT, _LINE_HEIGHT = 1040, 340, 19
#: Okabe & Ito 2008, which the colour-blind can tell apart, without black and yellow.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Placeholders for the page's own colours, so that a chart turns dark with its page.
_INK, _SOFT, _LINE, _PAPER = "#010101", "#020202", "#030303", "#040404"
_PAGE_COLOURS = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _PAPER: "var(--paper)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "attention-lab",
    "text.parse_math": False,
    "font.size": 13,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "lines.markeredgewidth": 2,
    "lines.solid_capstyle": "round",
}


def colour(row: int) -> str:
    """The colour of the group in this row, the same all over the page."""
    return PALETTE[row % len(PALETTE)]


def is_hollow(row: int) -> bool:
    """Whether this group has to share its colour: then its marks are hollow, its lines dashed."""
    return row >= len(PALETTE)


def interval_chart(comparison: Comparison) -> str:
    """Mean, interval and single seeds of each group, beside the yardsticks, as an SVG element.

    Shows the metrics that have a floor, three at most, or else the first one.
    """
    metrics = [m for m in comparison.metrics if m in comparison.floor][:3] or comparison.metrics[:1]
    labels = [_short(group.label) for group in comparison.groups]
    left = 24 + 7.4 * max(map(len, labels))
    height, gap = 36 * len(labels), 44
    width = (_WIDTH - left - gap * (len(metrics) - 1) - 18) / len(metrics)
    top = 13 + _LINE_HEIGHT * max(1, len(comparison.yardsticks))

    def draw(figure: "Figure") -> None:
        for column, metric in enumerate(metrics):
            axes = _axes(figure, left + column * (width + gap), top, width, height)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels))
            axes.tick_params(axis="y", labelcolor=_INK, pad=12)
            axes.grid(visible=False, axis="y")
            _draw_intervals(axes, comparison, metric)

    return _svg("intervals", top + height + 50, draw)


def _draw_intervals(axes: "Axes", comparison: Comparison, metric: str) -> None:
    scale = 100 if is_rate(metric) else 1
    means, spans = {}, {}
    for row, group in enumerate(comparison.groups):
        if interval := group.interval(metric):
            mean, low, high = (scale * x for x in (interval.mean, interval.low, interval.high))
            seeds = [scale * score for score in group.scores(metric).values()]
            face = _PAPER if is_hollow(row) else colour(row)
            beneath = [row + 0.28] * len(seeds)
            axes.plot(seeds, beneath, "o", color=colour(row), alpha=0.6, markersize=4.5, mew=0)
            axes.plot([low, high], [row, row], color=colour(row), linewidth=2.5)
            axes.plot(mean, row, "o", color=colour(row), markerfacecolor=face, markersize=8)
            means[row], spans[row] = mean, _span(seeds, low, high)
    low, high = _limits(list(spans.values()))
    axes.set_xlim(low, high)
    for row, mean in means.items():
        if not low <= mean <= high:
            _point_beyond(axes, mean, row, shown(metric, mean / scale))
    for line, (name, known) in enumerate(comparison.yardsticks.items()):
        if metric in known:
            label = f"{name} {with_unit(metric, known[metric])}"
            _draw_line(axes, scale * known[metric], label, 7 + _LINE_HEIGHT * line)
    direction = "higher" if comparison.mode == "max" else "lower"
    better = f" ({direction} is better)" if metric == comparison.metrics[0] else ""
    axes.set_xlabel(column_title(metric) + better, labelpad=8)


def _span(seeds: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """What to show of a group: its interval, or less if that is far wider than its seeds."""
    first, last = min(seeds), max(seeds)
    if math.isnan(low):
        return first, last
    return max(low, first - 2 * (last - first)), min(high, last + 2 * (last - first))


def _limits(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The range of all spans but those that would crowd the others into a quarter of it."""
    kept = sorted(spans) or [(0.0, 1.0)]
    while len(kept) > 2:
        fewer = min(kept[1:], kept[:-1], key=_width)
        if _width(kept) < 4 * _width(fewer):
            break
        kept = fewer
    low, high = min(low for low, _ in kept), max(high for _, high in kept)
    margin = 0.1 * abs(high) or 1.0 if math.isclose(low, high) else 0.05 * (high - low)
    return low - margin, high + margin


def _width(spans: Sequence[tuple[float, float]]) -> float:
    return max(high for _, high in spans) - min(low for low, _ in spans)


def _point_beyond(axes: "Axes", value: float, row: int, text: str) -> None:
    """A value that lies beyond the edge, as text with an arrow."""
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


def _draw_line(axes: "Axes", value: float, label: str, above: float) -> None:
    """A dashed line; at the edge, with an arrow, where the value is far from all results.

    The label stands so many points above the axes.
    """
    low, high = axes.get_xlim()
    reach = 3 * (high - low)
    if low - reach <= value <= high + reach:
        margin = 0.04 * (high - low)
        axes.set_xlim(min(low, value - margin), max(high, value + margin))
        x, align = value, "center"
    elif value > high:
        x, align, label = high, "right", f"{label} →"
    else:
        x, align, label = low, "left", f"← {label}"
    axes.axvline(x, color=_SOFT, linewidth=1.2, dashes=(4, 3), clip_on=False)
    axes.annotate(
        label,
        (x, 1),
        (0, above),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=_SOFT,
        ha=align,
    )


def learning_chart(comparison: Comparison) -> str:
    """The monitored metric on validation by training step, as an SVG element; "" without any.

    A line is the mean over the finished seeds of a group, a band their range, at the steps that all
    of them have logged.
    """
    metric = next(iter(comparison.metrics), "loss")
    scale = 100 if is_rate(metric) else 1
    curves = {
        row: curve
        for row, group in enumerate(comparison.groups)
        if (curve := learning_curve(group, f"validation/{metric}"))
    }
    if not curves:
        return ""
    labels = {row: _short(comparison.groups[row].label) for row in curves}
    left, right = 68, 24 + 7.4 * max(map(len, labels.values()))
    values = [value for curve in curves.values() for step in curve.values() for value in step]
    ends = {row: scale * fmean(list(curve.values())[-1]) for row, curve in curves.items()}

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

        axes = _axes(figure, left, 12, _WIDTH - left - right, _LEARNING_HEIGHT)
        for row, curve in curves.items():
            steps = list(curve)
            seeds = [[scale * value for value in curve[step]] for step in steps]
            style = "--" if is_hollow(row) else "-"
            means = [fmean(values) for values in seeds]
            lows, highs = [min(values) for values in seeds], [max(values) for values in seeds]
            axes.fill_between(steps, lows, highs, color=colour(row), alpha=0.15, linewidth=0)
            axes.plot(steps, means, color=colour(row), linewidth=2, linestyle=style)
        if comparison.mode == "min" and 0 < 3 * min(values) < max(values):
            axes.set_yscale("log")  # spreads the ends of curves that fall towards zero
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("training step", labelpad=8)
        axes.set_ylabel(f"validation {column_title(metric)}", labelpad=8)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.margins(x=0.01)
        axes.get_ylim()  # settles the limits, which the places of the names depend on
        _label_lines(axes, ends, labels)

    return _svg("learning", 12 + _LEARNING_HEIGHT + 50, draw)


def learning_curve(group: Group, column: str) -> dict[int, list[float]]:
    """The values of the finished seeds at each step that all of them have logged."""
    series = [run.curve(column) for run in group.finished]
    shared = set.intersection(*map(set, series)) if series else set()
    return {step: [values[step] for values in series] for step in sorted(shared)}


def _label_lines(axes: "Axes", ends: Mapping[int, float], labels: Mapping[int, str]) -> None:
    """Name each line right of its end, moved up or down where names would collide."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    gap = _LINE_HEIGHT / _LEARNING_HEIGHT
    place, ceiling = -math.inf, 1.0
    places = {}
    for row in sorted(ends, key=lambda row: ends[row]):
        place = max(place + gap, to_fraction.transform((0, ends[row]))[1])
        places[row] = place
    for row, place in reversed(places.items()):
        ceiling = min(ceiling, place)
        face = _PAPER if is_hollow(row) else colour(row)
        axes.plot(
            *(1.015, ceiling, "o"),
            color=colour(row),
            markerfacecolor=face,
            markersize=6,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(1.03, ceiling, labels[row], va="center_baseline", transform=axes.transAxes)
        ceiling -= gap


def _axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes at a place in pixels, measured from the top left."""
    whole_width, whole_height = figure.get_size_inches() * 72
    bottom = whole_height - top - height
    return figure.add_axes(
        (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    )


def _svg(name: str, height: float, draw: Callable[["Figure"], None]) -> str:
    """What ``draw`` draws, as an SVG element to stand in a page."""
    import matplotlib  # only where it is used: reading records must not wait for it
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The text stays text, which the browser sets in a font that has the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(_WIDTH / 72, height / 72))
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    opening = f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{name}">'
    svg = re.sub(r"^.*?<svg [^>]*>", opening, svg, count=1, flags=re.DOTALL)
    return re.sub(r"<[^<>]+>", lambda tag: _at_home(tag[0], name), svg)


def _at_home(tag: str, name: str) -> str:
    """A tag of a chart with the colours of its page, and with names that no other chart has."""
    tag = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", tag)
    for placeholder, page_colour in _PAGE_COLOURS.items():
        tag = tag.replace(placeholder, page_colour)
    return tag.replace("xlink:href", "href")


def _short(label: str, length: int = 34) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}…"
