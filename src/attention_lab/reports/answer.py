"""A comparison in one sentence that claims no more than the seeds support."""

import math
from collections.abc import Sequence

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group
from attention_lab.reports.statistics import Interval, smallest_p_value
from attention_lab.reports.wording import bounds, p_value, title, with_unit


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
    if not comparison.same_question:
        return (
            f"The runs have different data, so none is called better than another; the {extreme} "
            f"{name} is that of {best.label}, {value}."
        )
    if interval.mean <= floor if comparison.mode == "max" else interval.mean >= floor:
        beaten = f"{with_unit(metric, floor)} {name}"
        return f"No group beats the floor, {beaten}: {best.label} has {value}."
    if len(ranked) == 1:
        against = "" if math.isnan(floor) else f", with a floor of {with_unit(metric, floor)}"
        return f"The {name} of {best.label} is {value}{against}; no other group has a result."
    equals = [group.label for group, other in ranked if math.isclose(other.mean, interval.mean)]
    if len(equals) > 1:
        mean = with_unit(metric, interval.mean)
        return f"{listed(equals)} share the {extreme} {name}, {mean}{_too_few_seeds(ranked)}."
    return f"{best.label} has the {extreme} {name}, {value}{_verdict(comparison)}."


def limits(comparison: Comparison) -> str:
    """What the number of seeds leaves unsaid, in a sentence; "" where there are no differences."""
    ranked = comparison.ranked()
    if len(ranked) < 2:
        return ""
    most = max(interval.n for _, interval in ranked)
    if most == 1:
        return "One seed has no interval and no test: what another seed would give is not known."
    least = smallest_p_value(most)
    return (
        f"With {most} seeds no test gives a p below {least:.2g} unless it assumes a distribution; "
        "a smaller one, as of the t-test here, rests on differences that are normal."
    )


def _too_few_seeds(ranked: Sequence[tuple[Group, Interval]]) -> str:
    most = max(interval.n for _, interval in ranked)
    if most > 2:
        return ""
    seeds = "one seed is" if most == 1 else "two seeds are"
    return f", but {seeds} too few to trust any difference"


def _verdict(comparison: Comparison) -> str:
    """How far the seeds support the lead of the best group."""
    (best, _), *others = ranked = comparison.ranked()
    if too_few := _too_few_seeds(ranked):
        return too_few
    baseline = comparison.baseline
    if baseline in [group for group, _ in others]:
        return _lead_over_baseline(comparison, best)
    sign = 1 if comparison.mode == "max" else -1
    supported = [
        difference
        for difference in comparison.from_best
        if difference.is_supported and sign * difference.interval.mean > 0
    ]
    behind = [difference.reference.label for difference in supported]
    unsettled = [group.label for group, _ in others if group.label not in behind]
    verdict = ""
    if behind:
        better = "higher" if comparison.mode == "max" else "lower"
        rest = listed(behind) if unsettled or len(behind) == 1 else "every other group"
        largest = max(difference.adjusted_p for difference in supported)
        p = p_value(largest, "=" if len(supported) == 1 else "≤")
        verdict += f", {better} than {rest} on the same seeds (adjusted {p})"
    if unsettled:
        most = max(interval.n for _, interval in ranked)
        rest = listed(unsettled) if behind or len(unsettled) < 4 else "any other group"
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


def listed(labels: Sequence[str]) -> str:
    """Labels in a sentence: "a, b and c", or how many groups they are."""
    if len(labels) > 3:
        return f"{len(labels)} groups"
    separator = "; " if any(", " in label for label in labels) else ", "
    return " and ".join(filter(None, [separator.join(labels[:-1]), labels[-1]]))
