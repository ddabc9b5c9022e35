"""The colours of the report's charts and page, and the style in which each group is drawn."""

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group

#: Colours that colour-blind readers can distinguish (Okabe & Ito 2008), without black and yellow.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
#: The number of groups that differ in colour or shape.
MAX_STYLES = 2 * len(PALETTE)
#: The most groups in the page's tables and in the charts of test results; ``report.csv`` has all.
MAX_SHOWN = 500


def group_styles(comparison: Comparison) -> dict[Group, int]:
    """The style number of each group, the same in all charts and tables of the page.

    Only the best ``MAX_STYLES`` groups have one. The others are grey, or left out of charts that
    name their lines.
    """
    return {group: style for style, group in enumerate(_best_groups(comparison, MAX_STYLES))}


def shown_groups(comparison: Comparison) -> list[Group]:
    """The groups of the page's tables: the best ``MAX_SHOWN`` and the baseline, as swept."""
    shown = {comparison.baseline, *_best_groups(comparison, MAX_SHOWN)}
    return [group for group in comparison.groups if group in shown]


def _best_groups(comparison: Comparison, at_most: int) -> list[Group]:
    """The best groups, in the order of the sweep; groups without a result come last."""
    ranked = dict.fromkeys([*(group for group, _ in comparison.ranking.means), *comparison.groups])
    chosen = {*list(ranked)[:at_most]}
    return [group for group in comparison.groups if group in chosen]


def colour(style: int | None) -> str:
    """The colour of a style; the page's grey for a group without a style."""
    return "var(--soft)" if style is None else PALETTE[style % len(PALETTE)]


def is_hollow(style: int | None) -> bool:
    """Whether a style reuses a colour: then its marks are hollow and its lines dashed."""
    return style is not None and style >= len(PALETTE)


def fill_colour(style: int | None) -> str:
    """The fill colour of a style's marks."""
    return "var(--paper)" if is_hollow(style) else colour(style)
