"""The comparison as a table in the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group as Rows
from rich.console import RenderableType
from rich.table import Table

from attention_lab.printing import rich_console, rich_text
from attention_lab.quantities import format_quantity
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import (
    column_title,
    failure_reason,
    format_interval,
    format_seed_count,
    format_status,
    format_value,
)
from attention_lab.reports.headline import headline, seeds_caveat
from attention_lab.reports.stats import Interval

#: The most runs without a result that are listed; the page lists all.
MAX_LISTED = 10
#: The name of a baseline that is never wrapped.
TRIVIAL = "trivial baseline"
#: The most metrics in the table; the page has all.
MAX_METRICS = 20


def terminal_table(comparison: Comparison, width: int = 100) -> RenderableType:
    """The comparison as a table of ``width`` characters, with the headline and the caveats.

    The first metric and the costs are always shown; further metrics are shown if they fit.
    """
    count = min(len(comparison.metrics), MAX_METRICS)
    table = _terminal_table(comparison, comparison.metrics[:count])
    while count > 1 and rich_console(width=1000).measure(table).maximum > width:
        count -= 1
        table = _terminal_table(comparison, comparison.metrics[:count])
    head, foot = rich_text(headline(comparison), style="bold"), rich_text(*_footnotes(comparison))
    return Rows(head, "", table, "", foot)


def _terminal_table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    differences = comparison.to_baseline(metrics[0]) if metrics else []
    difference_columns = [f"Δ {column_title(metrics[0], 'points')}"] if differences else []
    # Long names of baselines are wrapped, so that they do not push a metric out of the table.
    widest = max(len(name) for name in (TRIVIAL, *(group.label for group in comparison.groups)))
    title = rich_text(" × ".join(comparison.swept) or "group")
    table.add_column(title, overflow="fold", max_width=max(widest, title.cell_len))
    for column in ("n", *map(column_title, metrics), *difference_columns, "params", "tokens/s"):
        table.add_column(rich_text(column), justify="right")
    winner = comparison.winner
    for group in comparison.groups:
        cells = [_cell(metric, group.interval(metric)) for metric in metrics]
        if differences:
            found = [d.interval for d in differences if d.group is group]
            cells.append(_cell(metrics[0], found[0] if found else None))
        cells += [
            format_quantity(group.median("parameters")),
            format_quantity(group.median("tokens_per_second")),
        ]
        style = "bold" if group is winner else ""
        table.add_row(*map(rich_text, (group.label, format_seed_count(group), *cells)), style=style)
    if comparison.baselines.by_name:
        table.add_section()
    for name, known in comparison.baselines.by_name.items():
        values = (format_value(metric, known.get(metric)) for metric in metrics)
        table.add_row(*map(rich_text, (name, "", *values)), style="dim")
    return table


def _cell(metric: str, interval: Interval | None) -> str:
    return (
        f"{format_value(metric, interval.mean)} {format_interval(metric, interval)}"
        if interval
        else "–"
    )


def _footnotes(comparison: Comparison) -> list[str]:
    few = any(interval.n == 2 for _, interval in comparison.ranking.means)
    values = ", or both values of two seeds" if few else ""
    lines = [f"Test metrics: mean over n seeds and 95 % interval{values}."]
    if comparison.baseline:
        lines.append(
            f"Δ: paired difference to {comparison.baseline.label} on shared seeds; its interval is "
            "adjusted for the number of groups."
        )
    lines += [
        line for line in (seeds_caveat(comparison), comparison.tuning, *comparison.caveats) if line
    ]
    missing = [
        f"{format_status(run)}: {run.name}: {failure_reason(run)}"
        for _, run in comparison.unfinished
    ]
    if len(missing) > MAX_LISTED:
        missing[MAX_LISTED:] = [f"and {len(missing) - MAX_LISTED} more runs without a result"]
    return lines + missing
