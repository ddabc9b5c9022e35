"""Paired differences between groups, tested as one family."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from attention_lab.data.core.metric_info import Bounds
from attention_lab.reports.groups import Group
from attention_lab.reports.stats import (
    Interval,
    effect_size,
    holm_factors,
    paired_difference,
    paired_p_value,
)

#: The values of a metric by seed.
Scores = Mapping[int, float]


@dataclass(frozen=True)
class Difference:
    """The paired difference of a metric between two groups, on the seeds that both finished."""

    group: Group
    #: The group whose values are subtracted.
    reference: Group
    #: The scores of the group and of the reference.
    scores: tuple[Scores, Scores]
    #: The bounds of the metric.
    bounds: Bounds
    p_value: float
    #: The factor by which Holm's procedure multiplies the p-value within its family.
    factor: float

    @property
    def adjusted_p(self) -> float:
        """Holm's adjusted p-value; NaN if there is no test."""
        return self.factor if math.isnan(self.factor) else min(1.0, self.p_value * self.factor)

    @property
    def confidence(self) -> float:
        """The confidence of the interval, which is adjusted like the p-value."""
        return 0.95 if math.isnan(self.factor) else 1 - 0.05 / self.factor

    @cached_property
    def interval(self) -> Interval:
        """The difference with an interval that excludes 0 exactly if the adjusted p < 0.05."""
        return paired_difference(*self.scores, self.confidence, self.bounds)

    @cached_property
    def effect_size(self) -> float:
        """Hedges' g_av: the difference in standard deviations of a single run."""
        return effect_size(*self.scores)

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p-value is below 0.05, which takes at least three seeds."""
        return self.adjusted_p < 0.05


def paired_differences(pairs: Sequence[tuple[Group, Group]], metric: str) -> list[Difference]:
    """The differences of all pairs that share a finished seed, adjusted as one family by Holm."""
    scores = {group: group.scores(metric) for pair in pairs for group in pair}
    shared = [pair for pair in pairs if scores[pair[0]].keys() & scores[pair[1]].keys()]
    paired = [(scores[one], scores[other]) for one, other in shared]
    p_values = [paired_p_value(*each) for each in paired]
    return [
        Difference(one, other, each, one.bounds(metric), p, factor)
        for (one, other), each, p, factor in zip(
            shared, paired, p_values, holm_factors(p_values).tolist(), strict=True
        )
    ]


def difference_between(
    one: Group, reference: Group, metric: str, factor: float
) -> Difference | None:
    """The difference of two groups, given Holm's factor; None if they share no finished seed."""
    scores = one.scores(metric), reference.scores(metric)
    if not scores[0].keys() & scores[1].keys():
        return None
    p_value = paired_p_value(*scores)
    return Difference(one, reference, scores, one.bounds(metric), p_value, factor)
