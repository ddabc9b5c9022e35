"""Matplotlib figures as SVG elements of the page, and the ranges of their axes."""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attention_lab.reports.charts.styles import INK, LINE, SOFT, on_page
from attention_lab.reports.metrics import bounds_of, is_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The width of a chart and the height of a line of text, in pixels of the page.
WIDTH, LINE_HEIGHT = 1040, 19
#: The width of a character in pixels, a little more than the average.
CHARACTER = 7.4
#: The smallest span of an axis, as a share of its greatest value.
MIN_SPAN = 0.05
_STYLE: dict[Any, Any] = {
    "axes.formatter.useoffset": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "attention-lab",
    "text.parse_math": False,
    "font.size": 13,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "lines.markeredgewidth": 2,
    "lines.solid_capstyle": "round",
}


def scale(metric: str) -> float:
    """The factor from values of a metric to the chart: rates are drawn in percent."""
    return 100.0 if is_rate(metric) else 1.0


def clip_to_bounds(
    metric: str, low: float, high: float, values: Sequence[float] = ()
) -> tuple[float, float]:
    """A range, in units of the chart, clipped to the values that a metric can have.

    No rate is below 0 %, and no accuracy above 100 %. An error rate can exceed 100 %, so its range
    is clipped at 100 % only if none of the ``values`` is greater.
    """
    if not is_rate(metric):
        return low, high
    is_open = math.isinf(bounds_of(metric)[1]) and not (values and max(values) <= 100)
    return max(low, 0.0), high if is_open else min(high, 100.0)


def range_of(values: Sequence[float], metric: str) -> tuple[float, float]:
    """A range with a margin around values of a metric, in units of the chart.

    It has a minimum span, for a rate of at least one point, so that charts do not magnify noise.
    """
    low, high = min(values), max(values)
    least = max(MIN_SPAN * max(abs(low), abs(high)), 1.0 if is_rate(metric) else 0.0) or 1.0
    margin = max(0.05 * (high - low), (least - (high - low)) / 2)
    return clip_to_bounds(metric, low - margin, high + margin, values)


def shorten(label: str, length: int = 34) -> str:
    """A label, cut to the length that fits beside a chart."""
    return label if len(label) <= length else f"{label[: length - 1]}…"


def axes_at(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Add axes at a position in pixels, measured from the top left."""
    whole_width, whole_height = figure.get_size_inches() * 72
    bottom = whole_height - top - height
    return figure.add_axes(
        (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    )


def svg(name: str, height: float, draw: Callable[["Figure"], None]) -> str:
    """The figure that ``draw`` draws, as an SVG element for the page."""
    import matplotlib  # only where it is used: reading records must not wait for it
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Text stays text in the SVG, and the browser finds a font that has the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    picture = file.getvalue()
    opening = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}">'
    picture = re.sub(r"^.*?<svg [^>]*>", opening, picture, count=1, flags=re.DOTALL)
    return re.sub(r"<[^<>]+>", lambda tag: _embedded(tag[0], name), picture)


def _embedded(tag: str, name: str) -> str:
    """A tag of a chart with the page's colours and with ids that are unique in the page."""
    tag = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", tag)
    return on_page(tag).replace("xlink:href", "href")
