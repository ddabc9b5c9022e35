"""The headline of a report: the result in one or two sentences."""

import math
from collections.abc import Sequence

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import (
    format_interval,
    format_p_value,
    format_with_unit,
    metric_name,
)
from attention_lab.reports.groups import Group
from attention_lab.reports.stats import ENOUGH_SEEDS, Interval, smallest_p_value


def headline(comparison: Comparison) -> str:
    """The result of a comparison in one or two sentences.

    A group is called better only if at least three seeds are shared and the p-value, adjusted for
    all differences tested, is below 0.05. The group with the best mean is named together with the
    groups that the seeds do not distinguish from it. The values of the trivial and shortcut
    baselines are always given.
    """
    ranked = comparison.ranking.means
    if not ranked:
        return "No run has finished with a test metric, so there is nothing to compare."
    (best, interval), metric = ranked[0], comparison.metrics[0]
    if not comparison.same_data:
        return (
            "The runs have different data, so none is called better than another; the "
            f"{_extreme(comparison)} {metric_name(metric)} is that of {best.label}, "
            f"{_value(metric, interval)}."
        )
    sentence = _ranking(comparison)
    if comparison.baseline in [group for group, _ in ranked[1:]]:
        sentence += _difference_to_baseline(comparison, best)
    elif comparison.baseline not in (None, best) and len(ranked) > 1:
        sentence += f"; the baseline {comparison.baseline.label} has no result"
    if unbeaten := comparison.ranking.unbeaten_baseline:
        name, value = unbeaten
        known = f"{format_with_unit(metric, value)} {metric_name(metric)}"
        return f"No group beats the {name}, {known}. {sentence}."
    return f"{sentence}."


def seeds_caveat(comparison: Comparison) -> str:
    """The limits of a test with few seeds, in one sentence; "" for fewer than two groups."""
    ranked = comparison.ranking.means
    if len(ranked) < 2:
        return ""
    most = max(interval.n for _, interval in ranked)
    if most < ENOUGH_SEEDS:
        few = {1: "One seed has", 2: "Two seeds have"}[most]
        return f"{few} no interval and no test, so the result of another seed is not predictable."
    least = smallest_p_value(most)
    return (
        f"With {most} seeds no test gives a p below {least:.2g} unless it assumes a distribution; "
        "a smaller p of the t-test here assumes normally distributed differences."
    )


def _ranking(comparison: Comparison) -> str:
    """The sentence that names the best group, or the groups that the seeds do not distinguish."""
    metric = comparison.metrics[0]
    ranked, leaders = comparison.ranking.means, comparison.ranking.leaders
    (best, interval), (worst, last) = ranked[0], ranked[-1]
    name, value = metric_name(metric), f"{_value(metric, interval)}{_baselines(comparison)}"
    if len(ranked) == 1:
        return f"The {name} of {best.label} is {value}; no other group has a result"
    behind = [group for group, _ in ranked[1:] if group not in leaders]
    if len(leaders) == 1:
        lead = _lead(comparison, best, behind)
        return f"{best.label} has the {_extreme(comparison)} {name}, {value}{lead}"
    if behind:
        labels = join_labels([group.label for group in leaders])
        return (
            f"{_seeds_do(ranked)} not distinguish {labels}: {best.label} has the "
            f"{_extreme(comparison)} {name}, {value}{_lead(comparison, best, behind)}"
        )
    first, known = format_with_unit(metric, interval.mean), _baselines(comparison)
    if math.isclose(interval.mean, last.mean):
        labels = join_labels([group.label for group, _ in ranked])
        return f"{labels} have the same {name}, {first}{known}"
    return (
        f"{_seeds_do(ranked)} not distinguish the groups: {name} is from {first} for {best.label} "
        f"to {format_with_unit(metric, last.mean)} for {worst.label}{known}"
    )


def _extreme(comparison: Comparison) -> str:
    return "highest" if comparison.mode == "max" else "lowest"


def _value(metric: str, interval: Interval) -> str:
    return f"{format_with_unit(metric, interval.mean)} {format_interval(metric, interval)}"


def _baselines(comparison: Comparison) -> str:
    """The values of the trivial baseline and the best shortcut, in parentheses.

    A baseline that no group beats is left out, because another sentence names it.
    """
    metric, ranking = comparison.metrics[0], comparison.ranking
    named = ranking.strongest_baselines[: -1 if ranking.unbeaten_baseline else None]
    known = [f"{name} {format_with_unit(metric, value)}" for name, value in named]
    if ranking.is_baseline_within_interval:
        known[-1] += ", within the interval"
    return f" ({', '.join(known)})" if known else ""


def _seeds_do(ranked: Sequence[tuple[Group, Interval]]) -> str:
    most = max(interval.n for _, interval in ranked)
    few = {1: "One seed does", 2: "Two seeds do"}
    return few.get(most, f"{most} seeds do")


def _lead(comparison: Comparison, best: Group, behind: Sequence[Group]) -> str:
    """The part of the sentence that compares the best group with those significantly ``behind``.

    The baseline group is left out, because another part compares with it.
    """
    behind = [group for group in behind if group is not comparison.baseline]
    if not behind:
        return ""
    p_values = [
        d.adjusted_p for group in behind if (d := comparison.ranking.difference(best, group))
    ]
    others = len(comparison.ranking.means) - 1
    rest = (
        "every other group" if 1 < others == len(behind) else join_labels([g.label for g in behind])
    )
    better = "higher" if comparison.mode == "max" else "lower"
    p = format_p_value(max(p_values), "=" if len(p_values) == 1 else "≤")
    return f", {better} than {rest} on the same seeds (adjusted {p})"


def _difference_to_baseline(comparison: Comparison, best: Group) -> str:
    assert comparison.baseline is not None
    metric, label = comparison.metrics[0], comparison.baseline.label
    difference = comparison.ranking.difference(best, comparison.baseline)
    if difference is None or difference.interval.n < ENOUGH_SEEDS:
        return f"; {best.label} shares too few seeds with the baseline {label} for a test"
    interval = difference.interval
    found = (
        f"; the difference of {best.label} to the baseline {label} is "
        f"{format_with_unit(metric, interval.mean, 'points')}"
    )
    if not interval.is_bounded:
        return f"{found} on each of {interval.n} shared seeds: without spread there is no test"
    chance = "" if difference.is_significant else ": it may be chance"
    return (
        f"{found} {format_interval(metric, interval)} on {interval.n} shared seeds "
        f"(adjusted {format_p_value(difference.adjusted_p)}{chance})"
    )


def join_labels(labels: Sequence[str]) -> str:
    """Labels in a sentence: "a, b and c", or how many groups they are."""
    if len(labels) > 3:
        return f"{len(labels)} groups"
    separator = "; " if any(", " in label for label in labels) else ", "
    return " and ".join(filter(None, [separator.join(labels[:-1]), labels[-1]]))
