"""Quality against cost: which groups no other dominates."""

from collections.abc import Sequence
from dataclasses import dataclass

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group
from attention_lab.reports.labels import duration, quantity, sentence, title

#: The relative difference up to which costs count as equal.
_NEARLY_EQUAL = 0.01


@dataclass(frozen=True)
class Cost:
    """Something that a result costs, or a speed at which it comes."""

    name: str
    #: Where it stands in ``result.json``.
    keys: tuple[str, ...]
    #: Whether more of it is better, as of a speed.
    is_speed: bool
    #: "s", "B" or "".
    unit: str = ""

    def write(self, value: float | None) -> str:
        """A value as one reads it: "1.2 h", "512 MB"."""
        return duration(value) if self.unit == "s" else quantity(value, self.unit)

    def of(self, group: Group) -> float | None:
        """The median over the group's seeds; None if it is not known."""
        return group.median(*self.keys)

    def dearest(self, group: Group) -> float:
        """What the group's dearest seed costs, or the speed of its slowest."""
        values = group.values(*self.keys).values()
        return min(values) if self.is_speed else max(values)


COSTS = (
    Cost("parameters", ("parameters",), is_speed=False),
    Cost("tokens/s", ("tokens_per_second",), is_speed=True),
    Cost("peak memory", ("peak_memory_bytes",), is_speed=False, unit="B"),
    Cost("training time", ("seconds", "training"), is_speed=False, unit="s"),
)


def points(comparison: Comparison, cost: Cost) -> list[tuple[Group, float, float]]:
    """Each group whose cost is known, with the cost and its mean in the first metric."""
    return [
        (group, value, interval.mean)
        for group, interval in comparison.ranked()
        if (value := cost.of(group)) is not None
    ]


def differs(comparison: Comparison, cost: Cost) -> bool:
    """Whether there is anything to choose: two groups whose costs are not nearly equal."""
    values = [value for _, value, _ in points(comparison, cost)]
    return bool(values) and max(values) > (1 + _NEARLY_EQUAL) * min(values)


def front(comparison: Comparison, cost: Cost) -> list[Group]:
    """The Pareto-optimal groups, the best mean first: those that no other group dominates.

    A group dominates another if it is better beyond chance and its median cost is not beyond all
    seeds of the other. A better mean or a lower cost alone is not enough: the seeds may not
    distinguish the groups.
    """
    medians = {group: value for group, value, _ in points(comparison, cost)}
    most = {group: cost.dearest(group) for group in medians}
    return [
        group
        for group in medians
        if not any(
            (median >= most[group] if cost.is_speed else median <= most[group])
            and comparison.is_better(other, group)
            for other, median in medians.items()
        )
    ]


def fronts_in_words(comparison: Comparison) -> list[str]:
    """A line for each cost: which groups are Pareto-optimal, and what that costs them."""
    lines = []
    for cost in COSTS:
        known = points(comparison, cost)
        if len(known) < 2:
            continue
        if not differs(comparison, cost):
            lines.append(f"{sentence(cost.name)}: all have {cost.write(known[0][1])}, within 1 %.")
            continue
        against = f"{sentence(title(comparison.metrics[0]))} against {cost.name}"
        best = front(comparison, cost)
        dominated = len(known) - len(best)
        if not dominated:
            lines.append(f"{against}: no group dominates another.")
            continue
        names = [f"{group.label} ({cost.write(cost.of(group))})" for group in best]
        rest = f"the other {dominated} are" if dominated > 1 else "the other is"
        lines.append(
            f"{against}: {_listed(names)} {'are' if len(best) > 1 else 'is'} Pareto-optimal; "
            f"{rest} dominated."
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, ["; ".join(names[:-1]), names[-1]]))
