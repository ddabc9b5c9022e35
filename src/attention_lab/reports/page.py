"""The report's page: one HTML file that needs no other file and no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attention_lab.reports.attention_maps import gallery
from attention_lab.reports.charts.canvas import colour, is_hollow, looks, on_page
from attention_lab.reports.charts.costs import cost_chart
from attention_lab.reports.charts.intervals import interval_chart
from attention_lab.reports.charts.learning import learning_chart
from attention_lab.reports.charts.slices import slice_chart
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.costs import fronts_in_words
from attention_lab.reports.headline import answer, limits
from attention_lab.reports.labels import (
    bounds,
    column_title,
    duration,
    effect,
    finished_of,
    p_value,
    quantity,
    reason,
    sentence,
    shown,
    status,
    title,
    with_unit,
)
from attention_lab.reports.provenance import code_of, provenance, shared_overrides, summary
from attention_lab.reports.runs import number
from attention_lab.reports.slices import sliced


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
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        differences=differences,
        gallery=gallery(comparison),
        looks=looks(comparison),
        slices=sliced(comparison.sliced),
        code={code_of(run) for run in comparison.runs} - {""},
    )


_IN_TEMPLATE: tuple[Callable[..., Any], ...] = (
    *(answer, bounds, code_of, colour, column_title, cost_chart, duration, effect, finished_of),
    *(fronts_in_words, interval_chart, is_hollow, learning_chart, limits, number, on_page),
    *(p_value, provenance, quantity, reason, sentence, shared_overrides, shown, slice_chart),
    *(status, summary, title, with_unit),
)
