"""The colours of the report's charts and page, and the style in which each group is drawn."""

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group

#: Colours that colour-blind readers can distinguish (Okabe & Ito 2008), without black and yellow.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
#: The number of groups that differ in colour or shape.
MAX_STYLES = 2 * len(PALETTE)


def group_styles(comparison: Comparison) -> dict[Group, int]:
    """The style number of each group, the same in all charts and tables of the page.

    Only the best ``MAX_STYLES`` groups have one. The others are grey, or left out of charts that
    name their lines.
    """
    best = [group for group, _ in comparison.ranking.means]
    others = [group for group in comparison.groups if group not in best]
    chosen = {*[*best, *others][:MAX_STYLES]}
    shown = [group for group in comparison.groups if group in chosen]
    return {group: style for style, group in enumerate(shown)}


def colour(style: int | None) -> str:
    """The colour of a style; the page's grey for a group without a style."""
    return "var(--soft)" if style is None else PALETTE[style % len(PALETTE)]


def is_hollow(style: int | None) -> bool:
    """Whether a style reuses a colour: then its marks are hollow and its lines dashed."""
    return style is not None and style >= len(PALETTE)


def fill_colour(style: int | None) -> str:
    """The fill colour of a style's marks."""
    return "var(--paper)" if is_hollow(style) else colour(style)
