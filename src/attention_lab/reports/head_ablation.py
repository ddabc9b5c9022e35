"""The table and the chart of a run whose attention heads were switched off, one at a time."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from attention_lab.reports.charts.axis import scale
from attention_lab.reports.formatting import column_title, format_interval, format_value
from attention_lab.reports.stats import Interval, paired_difference
from attention_lab.tracking.csv_file import csv_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class HeadEffect(NamedTuple):
    """The effect of switching one head off."""

    layer: str
    head: int
    #: The metric without the head.
    value: float
    #: The metric without the head minus the metric with all heads, on the parts of the data.
    difference: Interval


def head_effect(
    layer: str,
    head: int,
    parts: Mapping[int, float],
    all_heads: Mapping[int, float],
    number_of_heads: int,
) -> HeadEffect:
    """The effect of a head on a metric, with an interval for all heads together (Bonferroni).

    Args:
        layer: the layer's name.
        head: the head's number.
        parts: the metric without the head on each part of the data.
        all_heads: the same with all heads.
        number_of_heads: the number of heads of the model.
    """
    confidence = 1 - 0.05 / number_of_heads
    difference = paired_difference(parts, all_heads, confidence)
    return HeadEffect(layer, head, fmean(parts.values()), difference)


def is_distinguishable(difference: Interval) -> bool:
    """Whether the interval of a difference excludes 0."""
    return difference.is_bounded and not difference.low <= 0 <= difference.high


def table_header(metric: str, all_heads: float, width: int) -> Iterator[str]:
    """Yield the first lines of the table, for layers' names of a width."""
    title, change = column_title(metric), f"Δ {column_title(metric, 'points')}"
    yield f"{'layer':<{width}}  head  {title:>12}  {change}"
    yield f"{'all heads':<{width}}        {format_value(metric, all_heads):>12}"


def table_row(metric: str, effect: HeadEffect, width: int) -> str:
    """A line of the table; a star marks a difference whose interval excludes 0."""
    difference = effect.difference
    mark = " *" if is_distinguishable(difference) else ""
    change = f"{format_value(metric, difference.mean)} {format_interval(metric, difference)}"
    value = format_value(metric, effect.value)
    return f"{effect.layer:<{width}}  {effect.head:>4}  {value:>12}  {change}{mark}"


def csv_text(metric: str, all_heads: float, effects: Sequence[HeadEffect]) -> str:
    """The table as the text of a CSV file; the first row has all heads."""
    rows: list[list[object]] = [["", "", all_heads, "", "", ""]]
    for layer, head, value, difference in effects:
        ends = [difference.low, difference.high] if difference.is_bounded else ["", ""]
        rows.append([layer, head, value, difference.mean, *ends])
    return csv_table(["layer", "head", metric, "difference", "low", "high"], rows)


def chart(metric: str, effects: Sequence[HeadEffect]) -> "Figure":
    """The differences with their intervals, a row for each head; filled where one excludes 0."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.25 * len(effects)), layout="constrained")
    axes, factor = figure.add_subplot(), scale(metric)
    for row, effect in enumerate(effects):
        mean, ends = effect.difference.mean, effect.difference.ends
        colour = "C0" if is_distinguishable(effect.difference) else "white"
        axes.plot([factor * end for end in ends], [row, row], color="C0")
        axes.plot(factor * mean, row, "o", color="C0", markerfacecolor=colour)
    axes.axvline(0, color="gray", linewidth=1)
    axes.set_yticks(range(len(effects)), [f"{each.layer}, head {each.head}" for each in effects])
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.set_xlabel(f"change of {column_title(metric, 'points')} without the head")
    return figure
