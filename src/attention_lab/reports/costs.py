"""Quality against cost: which groups no other beats in both."""

from collections.abc import Sequence
from dataclasses import dataclass

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group
from attention_lab.reports.wording import duration, quantity, sentence, title


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
    """Whether there is anything to choose: two groups of different cost."""
    return len({value for _, value, _ in points(comparison, cost)}) > 1


def front(comparison: Comparison, cost: Cost) -> list[Group]:
    """The Pareto front, the best mean first: groups that none beats in quality and cost at once.

    A group is beaten by one that is at least as good in both and better in one.
    """
    known = points(comparison, cost)
    goods = [
        (
            group,
            value if cost.is_speed else -value,
            mean if comparison.mode == "max" else -mean,
        )
        for group, value, mean in known
    ]
    return [
        group
        for group, cheap, good in goods
        if not any(a >= cheap and b >= good and (a > cheap or b > good) for _, a, b in goods)
    ]


def fronts_in_words(comparison: Comparison) -> list[str]:
    """A line for each cost: who is on the front, and what that costs them."""
    lines = []
    for cost in COSTS:
        known = points(comparison, cost)
        if len(known) < 2:
            continue
        if not differs(comparison, cost):
            lines.append(f"{sentence(cost.name)}: all have {cost.write(known[0][1])}.")
            continue
        best = front(comparison, cost)
        names = [f"{group.label} ({cost.write(cost.of(group))})" for group in best]
        beaten = len(known) - len(best)
        rest = f"; the other {beaten} are beaten" if beaten > 1 else "; the other is beaten"
        lines.append(
            f"{sentence(title(comparison.metrics[0]))} against {cost.name}: {_listed(names)} "
            f"{'are' if len(best) > 1 else 'is'} on the front{rest if beaten else ''}."
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, ["; ".join(names[:-1]), names[-1]]))
