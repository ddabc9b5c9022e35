"""The results of the attention benchmark as a table, as CSV and as a chart."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from attention_lab.benchmarks.attention import PASSES, Measurement, Results
from attention_lab.benchmarks.fits import crossing, exponent
from attention_lab.benchmarks.peers import BASELINES
from attention_lab.printing import rich_console, rich_text
from attention_lab.reports.charts.styles import PALETTE
from attention_lab.tracking.csv_file import csv_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The shortest length that exponents are fitted from, if two lengths remain: shorter calls are
#: mostly overhead.
FIT_FROM = 512
#: The most implementations that the chart names, and how much they differ at least.
MAX_NAMED, CLOSE = 12, 1.2
LINE_STYLES = ("-", "--")
COLUMNS = (
    *("implementation", "pass", "batch_size", "num_heads", "length", "head_dim", "projections"),
    *("device", "dtype", "causal", "seconds", "seconds_low", "seconds_high", "ratio_to_sdpa"),
    *("peak_bytes", "share_of_ceiling", "exponent"),
)

Times = Mapping[int, float]


def csv_text(results: Results) -> str:
    """All measurements as the text of a CSV file; times are medians and quartiles."""
    setting, rows = results.setting, []
    for it in results.measurements:
        sizes = (setting.batch_size, setting.num_heads, it.length, setting.head_dim)
        where = (setting.device, str(setting.dtype).removeprefix("torch."), setting.causal)
        costs = (ratio(results, it), it.peak, it.share, growth(results, it.name, it.pass_name))
        shown = ["" if value is None else value for value in costs]
        rows.append([it.name, it.pass_name, *sizes, it.projects, *where, *it.timing, *shown])
    return csv_table(COLUMNS, rows)


def times(results: Results, name: str, pass_name: str) -> dict[int, float]:
    """The median times of an implementation by length, in seconds."""
    found = (it for it in results.measurements if it[:2] == (name, pass_name))
    return {it.length: it.timing.median for it in found}


def ratio(results: Results, measurement: Measurement) -> float | None:
    """The time divided by that of torch's SDPA in the same run; None without it."""
    baseline = times(results, BASELINES[measurement.projects], measurement.pass_name)
    other = baseline.get(measurement.length)
    return None if other is None else measurement.timing.median / other


def growth(results: Results, name: str, pass_name: str) -> float | None:
    """The exponent of the time against the length; None for a single length."""
    known = times(results, name, pass_name)
    long = {length: it for length, it in known.items() if length >= FIT_FROM}
    fitted = exponent(long if len(long) > 1 else known)
    return None if math.isnan(fitted) else fitted


def tables(results: Results, width: int) -> Iterator[Table]:
    """A table for each pass, at most ``width`` characters wide if possible.

    The figures are those at the longest length; times at shorter lengths are shown if they fit.
    """
    for pass_name in PASSES:
        lengths = sorted({it.length for it in results.measurements if it.pass_name == pass_name})
        table = None
        for first in range(len(lengths)):
            table = _table(results, pass_name, lengths[first:])
            if rich_console(width=1000).measure(table).maximum <= width:
                break
        if table is not None:
            yield table


def _table(results: Results, pass_name: str, lengths: Sequence[int]) -> Table:
    *shorter, longest = lengths
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.title, table.title_justify = (
        rich_text(f"\n{pass_name}, ms by length", style="bold"),
        "left",
    )
    table.add_column("", overflow="fold")
    titles = [f"{length:,}" for length in shorter]
    for title in (*titles, f"{longest:,} [quartiles]", "× SDPA", "MB", "ceiling", "L^"):
        table.add_column(rich_text(title), justify="right")
    rows = [it for it in results.measurements if it.pass_name == pass_name]
    last = {it.name: it for it in rows}
    for projects in (False, True):
        group = [it for it in last.values() if it.projects == projects]
        for it in sorted(group, key=lambda it: (-it.length, it.timing.median)):
            known = times(results, it.name, pass_name)
            before = [_milliseconds(known.get(length)) for length in shorter]
            cells = _cells(results, it) if it.length == longest else ["–"] * 5
            table.add_row(*map(rich_text, (it.name, *before, *cells)))
        table.add_section()
    return table


def _cells(results: Results, it: Measurement) -> list[str]:
    median, low, high = map(_milliseconds, it.timing)
    relative, power = ratio(results, it), growth(results, it.name, it.pass_name)
    return [
        f"{median} [{low}, {high}]",
        "–" if relative is None else f"{relative:.2f}",
        f"{it.peak / 1e6:,.1f}",
        f"{it.share:.0%}",
        "–" if power is None else f"{power:z.1f}",
    ]


def _milliseconds(seconds: float | None) -> str:
    """A time in milliseconds, with up to three digits: "0.012", "12.3", "1,234"."""
    if seconds is None:
        return "–"
    value = 1000 * seconds
    decimals = min(max(2 - math.floor(math.log10(value)), 0), 3)
    return f"{value:,.{decimals}f}"


def crossings(results: Results) -> Iterator[str]:
    """Lines that say from which length linear attention is faster than torch's SDPA."""
    linear = {it.name for it in results.measurements if it.name.split()[0] == "linear"}
    for name in sorted(linear):
        for pass_name in PASSES:
            ours, sdpa = (times(results, each, pass_name) for each in (name, BASELINES[False]))
            shared = ours.keys() & sdpa.keys()
            if not shared:
                continue
            length = crossing(ours, sdpa)
            yield f"{name} and {BASELINES[False]}, {pass_name}: " + (
                f"no crossing up to length {max(shared):,}"
                if length is None
                else f"faster from length {length:,.0f}"
                + (" (the shortest)" if length == min(shared) else "")
            )


def chart(results: Results) -> "Figure":
    """Time against length in each pass, on logarithmic axes; see :func:`named`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(PASSES), 5), layout="constrained")
    for axes, pass_name in zip(figure.subplots(1, len(PASSES)), PASSES, strict=True):
        _draw(axes, results, pass_name)
    return figure


def named(results: Results, pass_name: str) -> list[str]:
    """The implementations that the chart names: torch's SDPA, and others from fast to slow.

    Lines that end close to one with a name are grey, and so are those beyond ``MAX_NAMED``.
    """
    rows = [it for it in results.measurements if it.pass_name == pass_name and not it.projects]
    last = {it.name: (-it.length, it.timing.median) for it in rows}
    found: list[str] = []
    for name in sorted(last, key=lambda name: (name != BASELINES[False], last[name])):
        length, seconds = last[name]
        ends = [last[other][1] for other in found if last[other][0] == length]
        is_close = any(1 / CLOSE < seconds / end < CLOSE for end in ends)
        if not is_close and len(found) < MAX_NAMED:
            found.append(name)
    return found


def _draw(axes: "Axes", results: Results, pass_name: str) -> None:
    rows = [it for it in results.measurements if it.pass_name == pass_name and not it.projects]
    labelled = named(results, pass_name)
    for name in dict.fromkeys(it.name for it in rows):
        known = times(results, name, pass_name)
        points = (list(known), [1000 * it for it in known.values()])
        if name not in labelled:
            axes.plot(*points, color="lightgray", linewidth=1, zorder=0)
            continue
        index = labelled.index(name)
        kind = LINE_STYLES[index // len(PALETTE)]
        axes.plot(*points, kind, marker="o", color=PALETTE[index % len(PALETTE)], label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("length")
    axes.set_ylabel(f"{pass_name}, ms")
    if rows:
        axes.set_xticks(
            lengths := sorted({it.length for it in rows}), [f"{it:,}" for it in lengths]
        )
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        axes.legend([handles[name] for name in labelled], labelled, fontsize="small")
