"""A comparison put before its reader: one sentence, a table, a page, a file of numbers."""

import base64
import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.console import Console, RenderableType
from rich.console import Group as Rows
from rich.table import Table
from rich.text import Text

from attention_lab.sweeps.charts import colour, interval_chart, is_hollow, learning_chart
from attention_lab.sweeps.comparison import Comparison, Difference, Group
from attention_lab.sweeps.records import (
    number,
    section,
    settings,
)
from attention_lab.sweeps.statistics import Interval
from attention_lab.sweeps.wording import (
    bounds,
    column_title,
    duration,
    finished_of,
    p_value,
    quantity,
    reason,
    shown,
    title,
    with_unit,
)


def write_report(comparison: Comparison, directory: Path) -> Path:
    """Write ``report.html`` and ``report.csv`` into a directory; the result is the page's path."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "report.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(csv_rows(comparison))
    page = directory / "report.html"
    page.write_text(render_page(comparison), encoding="utf-8")
    return page


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
    if comparison.yardsticks:
        table.add_section()
    for name, known in comparison.yardsticks.items():
        table.add_row(
            name, "", *(shown(metric, known.get(metric)) for metric in metrics), style="dim"
        )
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
    for metric in (*comparison.metrics, *comparison.sliced):
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
                example = unquote(example)
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
