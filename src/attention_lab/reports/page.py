"""The report's page: one self-contained HTML file."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attention_lab.quantities import format_duration, format_quantity
from attention_lab.reports.attention_maps import map_gallery
from attention_lab.reports.attention_summaries import summary_curves
from attention_lab.reports.breakdowns import breakdowns
from attention_lab.reports.charts.breakdowns import breakdown_chart
from attention_lab.reports.charts.costs import cost_chart
from attention_lab.reports.charts.intervals import interval_chart
from attention_lab.reports.charts.learning import learning_chart, summary_charts
from attention_lab.reports.charts.styles import colour, group_styles, is_hollow, shown_groups
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.costs import pareto_sentences
from attention_lab.reports.formatting import (
    capitalize,
    column_title,
    failure_reason,
    format_effect_size,
    format_interval,
    format_p_value,
    format_seed_count,
    format_status,
    format_value,
    format_with_unit,
    metric_name,
)
from attention_lab.reports.headline import headline, seeds_caveat
from attention_lab.reports.provenance import code_of, provenance, shared_overrides, summary
from attention_lab.reports.runs import number


def render_page(comparison: Comparison, directory: Path = Path()) -> str:
    """The page as HTML that needs no other file and no network.

    Args:
        comparison: the comparison.
        directory: the page's directory, to which its links to the runs are relative.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in _IN_TEMPLATE:
        environment.globals[function.__name__] = function
    environment.globals["link"] = partial(relative_link, directory.resolve())
    differences = {
        metric: {
            difference.group.label: difference for difference in comparison.to_baseline(metric)
        }
        for metric in comparison.metrics
    }
    styles = group_styles(comparison)
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        groups=shown_groups(comparison),
        differences=differences,
        gallery=map_gallery(comparison),
        styles=styles,
        attention=summary_curves(styles),
        slices=breakdowns(comparison.slice_metrics),
        code={code_of(run) for run in comparison.runs} - {""},
    )


def relative_link(directory: Path, path: Path) -> str | None:
    """The address of a file or directory relative to a page's directory; None if it is missing.

    >>> relative_link(Path("/sweeps/all"), Path("/"))
    '../..'
    """
    return quote(os.path.relpath(path, directory)) if path.exists() else None


_IN_TEMPLATE: tuple[Callable[..., Any], ...] = (
    *(breakdown_chart, capitalize, code_of, colour, column_title, cost_chart, failure_reason),
    *(format_duration, format_effect_size, format_interval, format_p_value, format_quantity),
    *(format_seed_count, format_status, format_value, format_with_unit, headline, interval_chart),
    *(is_hollow, learning_chart, metric_name, number, pareto_sentences, provenance),
    *(seeds_caveat, shared_overrides, summary, summary_charts),
)
