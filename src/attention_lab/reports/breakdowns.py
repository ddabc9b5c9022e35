"""Breakdowns of test metrics by slices of the examples, such as accuracy by length."""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Breakdown:
    """A metric on all slices of one kind, such as accuracy by length."""

    metric: str
    #: The property that defines the slices: "length", or "length and pairs".
    kind: str
    #: The full name of the metric by slice: {"1-9": "accuracy/length=1-9"}.
    columns: dict[str, str]

    @property
    def is_ordered(self) -> bool:
        """Whether the slices are ranges of numbers."""
        return all(re.match(r"-?\d", value) for value in self.columns)


def breakdowns(metrics: Iterable[str]) -> list[Breakdown]:
    """Metrics such as "accuracy/length=1-9", collected by metric and kind; ranges are sorted.

    >>> breakdowns(["accuracy/length=10-19", "accuracy/length=1-9"])[0].columns
    {'1-9': 'accuracy/length=1-9', '10-19': 'accuracy/length=10-19'}
    """
    kinds: dict[tuple[str, str], dict[str, str]] = {}
    for name in metrics:
        metric, _, part = name.partition("/")
        terms = [term.rpartition("=") for term in part.split(",")]
        kind = " and ".join(key for key, _, _ in terms if key) or "slice"
        kinds.setdefault((metric, kind), {})[", ".join(value for _, _, value in terms)] = name
    found = [Breakdown(metric, kind, columns) for (metric, kind), columns in kinds.items()]
    return [
        Breakdown(one.metric, one.kind, dict(sorted(one.columns.items(), key=_numbers)))
        if one.is_ordered
        else one
        for one in found
    ]


def _numbers(column: tuple[str, str]) -> list[float]:
    return [float(number) for number in re.findall(r"(?<!\d)-?\d+(?:\.\d+)?", column[0])]
