"""What the charts are drawn on: matplotlib figures that become part of an HTML page."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group
from attention_lab.reports.labels import is_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Pixels of the page, which is as wide as a chart.
WIDTH, LINE_HEIGHT = 1040, 19
#: Pixels that a character takes, on average and in words with wide letters.
CHARACTER = 7.4
#: Okabe & Ito 2008, which the colour-blind can tell apart, without black and yellow.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
#: What an axis spans at least, as a share of its greatest value.
LEAST_SPAN = 0.05
#: How many groups differ in colour or shape.
MOST_LOOKS = 2 * len(PALETTE)
# Placeholders for the page's own colours, so that a chart turns dark with its page.
INK, SOFT, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
_PAGE_COLOURS = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
}
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


def looks(comparison: Comparison) -> dict[Group, int]:
    """The look of each group that has one of its own, the same all over the page.

    Of many groups those are the best. All others are grey, and left out where names would crowd.
    """
    best = [group for group, _ in comparison.ranked()]
    others = [group for group in comparison.groups if group not in best]
    chosen = {*[*best, *others][:MOST_LOOKS]}
    shown = [group for group in comparison.groups if group in chosen]
    return {group: look for look, group in enumerate(shown)}


def colour(look: int | None) -> str:
    """The colour of a look; grey for a group without one."""
    return SOFT if look is None else PALETTE[look % len(PALETTE)]


def is_hollow(look: int | None) -> bool:
    """Whether a look has to share its colour: then its marks are hollow, its lines dashed."""
    return look is not None and look >= len(PALETTE)


def face(look: int | None) -> str:
    """What marks of a look are filled with."""
    return PAPER if is_hollow(look) else colour(look)


def on_page(tag: str) -> str:
    """A tag or colour with the colours of the page in place of the charts' placeholders."""
    for placeholder, page_colour in _PAGE_COLOURS.items():
        tag = tag.replace(placeholder, page_colour)
    return tag


def scale(metric: str) -> float:
    """What values of a metric are multiplied with: rates are drawn in percent."""
    return 100.0 if is_rate(metric) else 1.0


def within(
    metric: str, low: float, high: float, values: Sequence[float] = ()
) -> tuple[float, float]:
    """The part of a range, as drawn, that a metric can have.

    No rate is below 0 %, no accuracy above 100 %. An error rate may be, where too much was
    written: its range ends at 100 % unless one of the ``values`` is greater, or none are given.
    """
    if not is_rate(metric):
        return low, high
    is_open = not metric.endswith("accuracy") and not (values and max(values) <= 100)
    return max(low, 0.0), high if is_open else min(high, 100.0)


def range_of(values: Sequence[float], metric: str) -> tuple[float, float]:
    """A range that shows all of some values of a metric, as drawn, with a margin.

    It spans a share of the values at least, and of a rate one point: a chart magnifies no noise.
    """
    low, high = min(values), max(values)
    least = max(LEAST_SPAN * max(abs(low), abs(high)), 1.0 if is_rate(metric) else 0.0) or 1.0
    margin = max(0.05 * (high - low), (least - (high - low)) / 2)
    return within(metric, low - margin, high + margin, values)


def short(label: str, length: int = 34) -> str:
    """A label that is no longer than a chart has room for."""
    return label if len(label) <= length else f"{label[: length - 1]}…"


def axes_at(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes at a place in pixels, measured from the top left."""
    whole_width, whole_height = figure.get_size_inches() * 72
    bottom = whole_height - top - height
    return figure.add_axes(
        (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    )


def svg(name: str, height: float, draw: Callable[["Figure"], None]) -> str:
    """What ``draw`` draws, as an SVG element to stand in a page."""
    import matplotlib  # only where it is used: reading records must not wait for it
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The text stays text, which the browser sets in a font that has the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    picture = file.getvalue()
    opening = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}">'
    picture = re.sub(r"^.*?<svg [^>]*>", opening, picture, count=1, flags=re.DOTALL)
    return re.sub(r"<[^<>]+>", lambda tag: _at_home(tag[0], name), picture)


def _at_home(tag: str, name: str) -> str:
    """A tag of a chart with the colours of its page, and with names that no other chart has."""
    tag = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", tag)
    return on_page(tag).replace("xlink:href", "href")
