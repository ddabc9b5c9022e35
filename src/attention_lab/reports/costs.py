"""Quality against cost: the Pareto-optimal groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attention_lab.quantities import format_duration, format_quantity
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import (
    capitalize,
    metric_name,
)
from attention_lab.reports.groups import Group

#: The relative difference up to which costs count as equal.
_NEARLY_EQUAL = 0.01


@dataclass(frozen=True)
class Cost:
    """A cost of a run, such as its training time, or a speed."""

    name: str
    #: The path of keys in ``result.json``.
    keys: tuple[str, ...]
    #: Whether greater values are better.
    is_speed: bool
    #: "s", "B" or "".
    unit: str = ""

    def format(self, value: float | None) -> str:
        """A value for readers: "1.2 h", "512 MB"."""
        return format_duration(value) if self.unit == "s" else format_quantity(value, self.unit)

    def median(self, group: Group) -> float | None:
        """The median over the group's seeds; None if unknown."""
        return group.median(*self.keys)

    def worst(self, group: Group) -> float:
        """The cost of the group's most expensive seed, or the speed of its slowest seed."""
        values = group.values(*self.keys).values()
        return min(values) if self.is_speed else max(values)


COSTS = (
    Cost("parameters", ("parameters",), is_speed=False),
    Cost("tokens/s", ("tokens_per_second",), is_speed=True),
    Cost("peak memory", ("peak_memory_bytes",), is_speed=False, unit="B"),
    Cost("training time", ("seconds", "training"), is_speed=False, unit="s"),
)


def cost_points(comparison: Comparison, cost: Cost) -> list[tuple[Group, float, float]]:
    """Each group whose cost is known, with the cost and the mean of its first metric."""
    return [
        (group, value, interval.mean)
        for group, interval in comparison.ranking.means
        if (value := cost.median(group)) is not None
    ]


def costs_differ(comparison: Comparison, cost: Cost) -> bool:
    """Whether the costs of the groups differ by more than 1 %."""
    values = [value for _, value, _ in cost_points(comparison, cost)]
    return bool(values) and max(values) > (1 + _NEARLY_EQUAL) * min(values)


def pareto_front(comparison: Comparison, cost: Cost) -> list[Group]:
    """The Pareto-optimal groups, the best mean first: those that no other group dominates.

    A group dominates another if it is significantly better and its median cost is no worse than the
    other group's worst seed. A better mean alone is not enough, because the seeds may not
    distinguish the groups.
    """
    medians = {group: value for group, value, _ in cost_points(comparison, cost)}
    worst = [cost.worst(group) for group in medians]
    compare = np.greater_equal if cost.is_speed else np.less_equal
    costs_no_more = compare.outer(list(medians.values()), worst)
    dominates = costs_no_more & comparison.ranking.better_pairs(list(medians))
    return [group for group, by in zip(medians, dominates.T, strict=True) if not by.any()]


def pareto_sentences(comparison: Comparison) -> list[str]:
    """A line for each cost: the Pareto-optimal groups and their costs."""
    lines = []
    for cost in COSTS:
        known = cost_points(comparison, cost)
        if len(known) < 2:
            continue
        if not costs_differ(comparison, cost):
            value = cost.format(known[0][1])
            lines.append(f"{capitalize(cost.name)}: all have {value}, within 1 %.")
            continue
        against = f"{capitalize(metric_name(comparison.metrics[0]))} against {cost.name}"
        best = pareto_front(comparison, cost)
        dominated = len(known) - len(best)
        if not dominated:
            lines.append(f"{against}: no group dominates another.")
            continue
        names = [f"{group.label} ({cost.format(cost.median(group))})" for group in best]
        rest = f"the other {dominated} are" if dominated > 1 else "the other is"
        lines.append(
            f"{against}: {_listed(names)} {'are' if len(best) > 1 else 'is'} Pareto-optimal; "
            f"{rest} dominated."
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, ["; ".join(names[:-1]), names[-1]]))
