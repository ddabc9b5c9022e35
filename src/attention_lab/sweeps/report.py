"""A comparison put before its reader: one sentence, a table, a page, a file of numbers."""

import base64
import csv
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.console import Console, RenderableType
from rich.console import Group as Rows
from rich.table import Table
from rich.text import Text

from attention_lab.sweeps.records import (
    Comparison,
    Difference,
    Group,
    Run,
    compare,
    number,
    read_runs,
    section,
    settings,
)
from attention_lab.sweeps.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_report(paths: Sequence[Path], output: Path | None, baseline: str | None = None) -> Path:
    """Write ``report.html`` and ``report.csv`` on the runs of ``paths``.

    Args:
        paths: sweep and run directories.
        output: the directory to write to; None means the first of the paths.
        baseline: the group to compare with, as in :func:`~attention_lab.sweeps.records.compare`.

    Returns:
        The path of the page.

    Raises:
        NotARun: for a path that holds no run.
        ValueError: for a baseline that does not fit exactly one group.
    """
    comparison = compare(read_runs(paths), baseline)
    directory = output or paths[0]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "report.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(csv_rows(comparison))
    page = directory / "report.html"
    page.write_text(render_page(comparison), encoding="utf-8")
    return page


# Words and numbers


def title(metric: str) -> str:
    """A metric's name as one writes it: "PER", "token accuracy"."""
    return metric.upper() if len(metric) <= 3 else metric.replace("_", " ")


def is_rate(metric: str) -> bool:
    """Whether a metric is a share, which is shown in percent: error rates and accuracies are."""
    return metric in ("per", "wer", "cer") or metric.endswith(("accuracy", "error_rate"))


def column_title(metric: str, unit: str = "%") -> str:
    """A metric's name with its unit, if it is a rate: "PER, %", "loss"."""
    return title(metric) + (f", {unit}" if is_rate(metric) else "")


def shown(metric: str, value: float | None) -> str:
    """A metric's value without its unit: percent with one decimal, anything else with three."""
    if value is None:
        return "–"
    return (f"{100 * value:z.1f}" if is_rate(metric) else f"{value:z.3f}").replace("-", "−")


def bounds(metric: str, interval: Interval) -> str:
    """The interval's range, as "[11.9, 12.7]", or why there is none."""
    if not interval.is_bounded:
        return "(one seed)"
    return f"[{shown(metric, interval.low)}, {shown(metric, interval.high)}]"


def with_unit(metric: str, value: float, unit: str = "%") -> str:
    """A metric's value with its unit: "12.3 %", "1.204"."""
    return shown(metric, value) + (f" {unit}" if is_rate(metric) else "")


def p_value(p: float, relation: str = "=") -> str:
    """A p-value as "p = 0.012", "p < 0.001", or "no p" where nothing could be tested."""
    if math.isnan(p):
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p {relation} {p:.2g}"


def quantity(value: float | None, unit: str = "") -> str:
    """A count to three digits: "1.23 M", "950"; "never" for inf."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "never"
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:#.3g}".rstrip(".") + f" {prefix}{unit}"
    return f"{value:g} {unit}".strip()


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it: "45 s", "3.4 min", "1.2 h"."""
    if seconds is None:
        return "–"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def finished_of(group: Group) -> str:
    """How many seeds a group's numbers rest on: "5", or "4/5" where runs are missing."""
    seeds, finished = {run.seed for run in group.runs}, len(group.finished)
    return str(finished) if finished == len(seeds) else f"{finished}/{len(seeds)}"


def reason(run: Run) -> str:
    """Why a run has no result, in one line."""
    if run.status == "running":
        return "has not finished yet"
    return str(run.error or "").strip().partition("\n")[0] or "gave no reason"


# The answer


def answer(comparison: Comparison) -> str:
    """The comparison in one sentence that claims no more than the seeds support.

    A difference is only called one if at least three seeds share it, its paired 95 % interval
    excludes zero, and its p-value, adjusted for all the differences looked at, is below 0.05.
    """
    ranked = comparison.ranked()
    if not ranked:
        return "No run has finished with a test metric, so there is nothing to compare."
    (best, interval), metric = ranked[0], comparison.metrics[0]
    name = title(metric)
    value = f"{with_unit(metric, interval.mean)} {bounds(metric, interval)}"
    extreme = "highest" if comparison.mode == "max" else "lowest"
    floor = comparison.floor.get(metric, math.nan)
    equals = [group.label for group, other in ranked if other.mean == interval.mean]
    if interval.mean <= floor if comparison.mode == "max" else interval.mean >= floor:
        beaten = f"{with_unit(metric, floor)} {name}"
        return f"No group beats the floor, {beaten}: {best.label} has {value}."
    if len(ranked) == 1:
        against = "" if math.isnan(floor) else f", with a floor of {with_unit(metric, floor)}"
        return f"The {name} of {best.label} is {value}{against}; no other group has a result."
    if len(equals) > 1:
        return f"{_listed(equals)} share the {extreme} {name}, {with_unit(metric, interval.mean)}."
    return f"{best.label} has the {extreme} {name}, {value}{_verdict(comparison)}."


def _verdict(comparison: Comparison) -> str:
    """How far the seeds support the lead of the best group."""
    (best, _), *others = ranked = comparison.ranked()
    most = max(interval.n for _, interval in ranked)
    if most < 3:
        seeds = "one seed is" if most == 1 else "two seeds are"
        return f", but {seeds} too few to trust any difference"
    baseline = comparison.baseline
    if baseline in [group for group, _ in others]:
        return _lead_over_baseline(comparison, best)
    sign = 1 if comparison.mode == "max" else -1
    supported = [
        difference
        for difference in comparison.from_best()
        if difference.is_supported and sign * difference.interval.mean > 0
    ]
    behind = [difference.reference.label for difference in supported]
    unsettled = [group.label for group, _ in others if group.label not in behind]
    verdict = ""
    if behind:
        better = "higher" if comparison.mode == "max" else "lower"
        rest = _listed(behind) if unsettled or len(behind) == 1 else "every other group"
        largest = max(difference.adjusted_p for difference in supported)
        p = p_value(largest, "=" if len(supported) == 1 else "≤")
        verdict += f", {better} than {rest} on the same seeds (adjusted {p})"
    if unsettled:
        rest = _listed(unsettled) if behind or len(unsettled) < 4 else "any other group"
        verdict += f", but {most} seeds do not separate it from {rest}"
    return verdict


def _lead_over_baseline(comparison: Comparison, best: Group) -> str:
    metric, label = comparison.metrics[0], comparison.baseline.label if comparison.baseline else ""
    found = [d for d in comparison.to_baseline(metric) if d.group is best and d.interval.n >= 3]
    if not found:
        return f", but it shares too few seeds with the baseline {label} to call it better"
    interval = found[0].interval
    mean = with_unit(metric, interval.mean, "points")
    difference = f"{mean} {bounds(metric, interval)} on {interval.n} shared seeds"
    if not found[0].is_supported:
        return f", but its difference to the baseline {label} may be chance: {difference}"
    p = p_value(found[0].adjusted_p)
    return f"; against the baseline {label} that is a difference of {difference} (adjusted {p})"


def _listed(labels: Sequence[str]) -> str:
    if len(labels) > 3:
        return f"{len(labels)} groups"
    separator = "; " if any(", " in label for label in labels) else ", "
    return " and ".join(filter(None, [separator.join(labels[:-1]), labels[-1]]))


# The terminal


def terminal_table(comparison: Comparison, width: int = 100) -> RenderableType:
    """The comparison as a table of ``width`` columns, the answer above it, the doubts below.

    The monitored metric and the costs always show, further metrics as far as they fit.
    """
    count = len(comparison.metrics)
    table = _terminal_table(comparison, comparison.metrics)
    while count > 1 and Console(width=1000).measure(table).maximum > width:
        count -= 1
        table = _terminal_table(comparison, comparison.metrics[:count])
    head, foot = Text(answer(comparison), style="bold"), Text("\n".join(_footnotes(comparison)))
    return Rows(head, "", table, "", foot)


def _terminal_table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    differences = comparison.to_baseline(metrics[0]) if metrics else []
    difference_columns = [f"Δ {column_title(metrics[0], 'points')}"] if differences else []
    table.add_column(Text(" × ".join(comparison.swept) or "group"), overflow="fold")
    for column in ("n", *map(column_title, metrics), *difference_columns, "params", "tokens/s"):
        table.add_column(column, justify="right")
    best = [group for group, _ in comparison.ranked()[:1]]
    for group in comparison.groups:
        cells = [_cell(metric, group.interval(metric)) for metric in metrics]
        if differences:
            found = [d.interval for d in differences if d.group is group]
            cells.append(_cell(metrics[0], found[0] if found else None))
        cells += [quantity(group.median("parameters")), quantity(group.median("tokens_per_second"))]
        style = "bold" if group in best else ""
        table.add_row(Text(group.label), finished_of(group), *map(Text, cells), style=style)
    if not comparison.floor:
        return table
    table.add_section()
    floor = [shown(metric, comparison.floor.get(metric)) for metric in metrics]
    table.add_row("floor", "", *floor, style="dim")
    return table


def _cell(metric: str, interval: Interval | None) -> str:
    return f"{shown(metric, interval.mean)} {bounds(metric, interval)}" if interval else "–"


def _footnotes(comparison: Comparison) -> list[str]:
    lines = ["Test metrics: the mean over n seeds and its 95 % interval."]
    if comparison.baseline:
        lines.append(f"Δ: paired difference to {comparison.baseline.label} on shared seeds.")
    lines += [line for line in (comparison.tuning, *comparison.warnings) if line]
    lines += [f"{run.status}: {run.name}: {reason(run)}" for _, run in comparison.unfinished]
    return lines


# The numbers

CSV_COLUMNS = (
    *("group", "metric", "n", "mean", "low", "high", "floor"),
    *("runs", "finished", "failed", "diverged", "parameters", "tokens_per_second"),
    *("peak_memory_bytes", "steps_to_threshold", "training_seconds", "baseline"),
    *("difference_n", "difference", "difference_low", "difference_high"),
    *("p_value", "adjusted_p_value"),
)


def csv_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """One row per group and test metric, in full precision; what does not exist is left out."""
    for metric in comparison.metrics:
        differences = comparison.to_baseline(metric)
        for group in comparison.groups:
            row = {
                "group": group.label,
                "metric": metric,
                "n": 0,
                "floor": comparison.floor.get(metric),
                "runs": len(group.runs),
                "parameters": group.median("parameters"),
                "tokens_per_second": group.median("tokens_per_second"),
                "peak_memory_bytes": group.median("peak_memory_bytes"),
                "steps_to_threshold": group.steps_to_threshold,
                "training_seconds": group.median("seconds", "training"),
            }
            row |= {status: group.counts[status] for status in ("finished", "failed", "diverged")}
            if interval := group.interval(metric):
                row |= asdict(interval)
            for difference in differences:
                if difference.group is group:
                    row |= _difference_columns(difference)
            yield {name: "" if _is_nan(value) else value for name, value in row.items()}


def _difference_columns(difference: Difference) -> dict[str, Any]:
    interval = difference.interval
    return {
        "baseline": difference.reference.label,
        "difference_n": interval.n,
        "difference": interval.mean,
        "difference_low": interval.low,
        "difference_high": interval.high,
        "p_value": difference.p_value,
        "adjusted_p_value": difference.adjusted_p,
    }


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


# The charts: drawn in the page's pixels, coloured by its style sheet

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
    """Mean, interval and single seeds of each group, beside the floor, as an SVG element.

    Shows the metrics that have a floor, three at most, or else the first one.
    """
    metrics = [m for m in comparison.metrics if m in comparison.floor][:3] or comparison.metrics[:1]
    labels = [_short(group.label) for group in comparison.groups]
    left = 24 + 7.4 * max(map(len, labels))
    height, gap = 36 * len(labels), 44
    width = (_WIDTH - left - gap * (len(metrics) - 1) - 18) / len(metrics)

    def draw(figure: "Figure") -> None:
        for column, metric in enumerate(metrics):
            axes = _axes(figure, left + column * (width + gap), 28, width, height)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels))
            axes.tick_params(axis="y", labelcolor=_INK, pad=12)
            axes.grid(visible=False, axis="y")
            _draw_intervals(axes, comparison, metric)

    return _svg("intervals", 28 + height + 50, draw)


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
    if metric in comparison.floor:
        label = f"floor {with_unit(metric, comparison.floor[metric])}"
        _draw_floor(axes, scale * comparison.floor[metric], label)
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


def _draw_floor(axes: "Axes", floor: float, label: str) -> None:
    """A dashed line; at the edge, with an arrow, where the floor is far from all results."""
    low, high = axes.get_xlim()
    reach = 3 * (high - low)
    if low - reach <= floor <= high + reach:
        margin = 0.04 * (high - low)
        axes.set_xlim(min(low, floor - margin), max(high, floor + margin))
        x, align = floor, "center"
    elif floor > high:
        x, align, label = high, "right", f"{label} →"
    else:
        x, align, label = low, "left", f"← {label}"
    axes.axvline(x, color=_SOFT, linewidth=1.2, dashes=(4, 3), clip_on=False)
    axes.annotate(
        label,
        (x, 1),
        (0, 7),
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
    series = [
        {int(row["step"]): row[column] for row in run.metrics if {"step", column} <= row.keys()}
        for run in group.finished
    ]
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


# The page


class Map(NamedTuple):
    """One attention map in the page."""

    #: The group's place in the comparison.
    row: int
    label: str
    seed: int | None
    step: int
    #: A data URI.
    image: str
    #: Whether many heads stand side by side in the picture.
    is_wide: bool


def attention_maps(comparison: Comparison) -> dict[str, dict[str, list[Map]]]:
    """The maps of the last validation, by example and layer: those of each group's first seed."""
    maps: dict[str, dict[str, list[Map]]] = {}
    for row, group in enumerate(comparison.groups):
        for run in sorted(group.finished, key=lambda run: run.seed or 0)[:1]:
            pictures = list(run.directory.glob("attention/step-*/*.png"))
            last = max(map(_step, pictures), default=0)
            for path in sorted(path for path in pictures if _step(path) == last):
                example, _, layer = path.stem.partition("-")
                among = maps.setdefault(example, {}).setdefault(layer, [])
                among.append(Map(row, group.label, run.seed, last, *_embedded(path)))
    return maps


def _embedded(picture: Path) -> tuple[str, bool]:
    """A PNG as a data URI, and whether it is wide."""
    data = picture.read_bytes()
    # A PNG starts with a signature of 8 bytes and a header chunk: length, "IHDR", width, height.
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return f"data:image/png;base64,{base64.b64encode(data).decode()}", width > 2.2 * height


def _step(picture: Path) -> int:
    digits = picture.parent.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0


def summary(comparison: Comparison) -> str:
    """How much was run, and how much of it counts."""
    runs, missing = len(comparison.runs), len(comparison.unfinished)
    seeds = len({run.seed for run in comparison.runs} - {None})
    missing_line = f"; {missing} without a result" if missing else ""
    return (
        f"{_counted(runs, 'run')} in {_counted(len(comparison.groups), 'group')}, "
        f"{_counted(seeds, 'seed')}{missing_line}."
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def provenance(comparison: Comparison) -> dict[str, str]:
    """Where the numbers come from: what was asked for, by which code, when and where."""
    records = [run.record for run in comparison.runs]
    times = sorted(_time(r[key]) for r in records for key in ("started", "finished") if r.get(key))
    versions = [f"{name} {v}" for r in records for name, v in section(r, "versions").items()]
    facts = {
        "Swept": ", ".join(comparison.swept),
        "In all runs": ", ".join(shared_overrides(comparison)),
        "Seeds": _distinct(sorted(run.seed for run in comparison.runs if run.seed is not None)),
        "Ran": " – ".join(dict.fromkeys(times[:1] + times[-1:])),
        "Hosts": _distinct(record.get("host") for record in records),
        "Git revision": _distinct(record.get("git_revision") for record in records),
        "Versions": _distinct(versions),
        "Report written": _time(datetime.now(UTC).isoformat()),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _time(iso: object) -> str:
    """A time of the record, to the minute: "2026-01-31 13:45 +00:00"."""
    return re.sub(r"T(\d\d:\d\d):[\d.]+", r" \1 ", str(iso)).strip()


def shared_overrides(comparison: Comparison) -> list[str]:
    """The overrides of every run, as "data=g2p"."""
    each = [settings(run) for group in comparison.groups for run in group.runs]
    return [f"{k}={v}" for k, v in each[0].items() if k not in comparison.swept] if each else []


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def render_page(comparison: Comparison) -> str:
    """The page: one HTML file that needs no other file and no network."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in _IN_TEMPLATE:
        environment.globals[function.__name__] = function
    differences = {
        metric: {
            difference.group.label: difference for difference in comparison.to_baseline(metric)
        }
        for metric in comparison.metrics
    }
    template = environment.get_template("report.html.j2")
    return template.render(comparison=comparison, differences=differences)


_IN_TEMPLATE: tuple[Callable[..., Any], ...] = (
    *(answer, attention_maps, bounds, colour, column_title, duration, finished_of),
    *(interval_chart, is_hollow, learning_chart, number, p_value, provenance, quantity, reason),
    *(shared_overrides, shown, summary, title, with_unit),
)
