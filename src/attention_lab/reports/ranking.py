"""The ranking of groups by one metric, and which of their differences are significant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attention_lab.reports.differences import (
    Difference,
    difference_between,
    paired_differences,
)
from attention_lab.reports.groups import Group
from attention_lab.reports.pairwise_tests import PairwiseTests
from attention_lab.reports.stats import Interval


@dataclass(frozen=True)
class Baselines:
    """Test metrics of the trivial baseline and of the shortcut baselines of a dataset."""

    #: By metric.
    trivial: Mapping[str, float]
    #: By the baseline's name, then by metric.
    shortcuts: Mapping[str, Mapping[str, float]]

    @property
    def by_name(self) -> dict[str, Mapping[str, float]]:
        """All baselines that have metrics: the trivial one first."""
        shortcuts = {f"{name} (shortcut)": known for name, known in self.shortcuts.items()}
        named = {"trivial baseline": self.trivial, **shortcuts}
        return {name: known for name, known in named.items() if known}

    def strongest(self, metric: str, mode: str) -> list[tuple[str, float]]:
        """The trivial baseline, then the best shortcut if that is better: names and values."""
        known = [("trivial baseline", self.trivial[metric])] if metric in self.trivial else []
        shortcuts = [
            (each[metric], name) for name, each in self.shortcuts.items() if metric in each
        ]
        if shortcuts:
            value, name = (max if mode == "max" else min)(shortcuts)
            if not known or _is_better(value, known[0][1], mode):
                known.append((f"shortcut baseline {name}", value))
        return known


@dataclass(frozen=True)
class Ranking:
    """Groups ranked by the mean of one metric, with the tests between them.

    Args:
        metric: the metric, or None if no run was tested.
        mode: "min" or "max", which values are better.
        candidates: the groups.
        reference: the group that the others are compared with, if one was named.
        baselines: the trivial and shortcut baselines.
    """

    metric: str | None
    mode: str
    candidates: Sequence[Group]
    reference: Group | None
    baselines: Baselines

    @cached_property
    def means(self) -> list[tuple[Group, Interval]]:
        """The groups that have the metric, each with its mean and interval, the best first."""
        if self.metric is None:
            return []
        scored = [(g, mean) for g in self.candidates if (mean := g.interval(self.metric))]
        return sorted(scored, key=lambda pair: pair[1].mean, reverse=self.mode == "max")

    @cached_property
    def _position(self) -> dict[Group, int]:
        """The place of each group in :attr:`means`."""
        return {group: position for position, (group, _) in enumerate(self.means)}

    @cached_property
    def _pairwise(self) -> PairwiseTests:
        """The tests of all pairs of groups.

        All pairs are one family, because which group is the best was not known beforehand.
        """
        return PairwiseTests(list(self._position), self.metric or "")

    @cached_property
    def _to_reference(self) -> dict[Group, Difference]:
        if self.metric is None or self.reference is None:
            return {}
        found = differences_to(self.reference, self.candidates, self.metric)
        return {each.group: each for each in found}

    def difference(self, one: Group, other: Group) -> Difference | None:
        """The difference between two groups, in either order.

        A difference to the reference group is adjusted for the number of groups, any other for the
        number of pairs.
        """
        if self.reference is not None and self.reference in (one, other):
            return self._to_reference.get(other if one is self.reference else one)
        if self.metric is None or one not in self._position or other not in self._position:
            return None
        first, second = sorted((one, other), key=self._position.__getitem__)
        return difference_between(first, second, self.metric, self._pairwise.factor(first, second))

    @cached_property
    def _is_better(self) -> NDArray[np.bool_]:
        """[i, j]: whether group i of :attr:`means` is significantly better than group j."""
        better = 1 if self.mode == "max" else -1
        signs = self._pairwise.signs(list(self._position))
        if self.reference in self._position:
            row = self._position[self.reference]
            for group, difference in self._to_reference.items():
                column = self._position[group]
                sign = np.sign(difference.interval.mean) if difference.is_significant else 0
                signs[column, row], signs[row, column] = sign, -sign
        return signs == better

    def is_better(self, one: Group, other: Group) -> bool:
        """Whether one group is significantly better than another."""
        if one not in self._position or other not in self._position:
            return False
        return bool(self.better_pairs([one, other])[0, 1])

    def better_pairs(self, groups: Sequence[Group]) -> NDArray[np.bool_]:
        """[i, j]: whether group i of ``groups`` is significantly better than group j."""
        positions = [self._position[group] for group in groups]
        return self._is_better[np.ix_(positions, positions)]

    @cached_property
    def leaders(self) -> list[Group]:
        """The group with the best mean, and those that the seeds do not distinguish from it."""
        groups = [group for group, _ in self.means]
        return [g for g in groups if g is groups[0] or not self.is_better(groups[0], g)]

    @property
    def strongest_baselines(self) -> list[tuple[str, float]]:
        """The trivial baseline, then the best shortcut if that is better: names and values."""
        return self.baselines.strongest(self.metric, self.mode) if self.metric else []

    @property
    def unbeaten_baseline(self) -> tuple[str, float] | None:
        """The strongest baseline if no group's mean is better: its name and value."""
        best, strongest = self.means[0][1].mean, self.strongest_baselines
        is_beaten = not strongest or _is_better(best, strongest[-1][1], self.mode)
        return None if is_beaten else strongest[-1]

    @property
    def is_baseline_within_interval(self) -> bool:
        """Whether the best mean beats the strongest baseline, but its interval contains it."""
        if not self.strongest_baselines or self.unbeaten_baseline:
            return False
        nearest_end = self.means[0][1].ends[0 if self.mode == "max" else 1]
        return not _is_better(nearest_end, self.strongest_baselines[-1][1], self.mode)

    @property
    def winner(self) -> Group | None:
        """The group that is significantly better than every other group and every baseline."""
        if len(self.means) < 2 or len(self.leaders) > 1:
            return None
        is_close_to_baseline = self.unbeaten_baseline or self.is_baseline_within_interval
        return None if is_close_to_baseline else self.leaders[0]


def differences_to(reference: Group, groups: Sequence[Group], metric: str) -> list[Difference]:
    """Each other group minus the reference, adjusted for the number of groups."""
    pairs = [(group, reference) for group in groups if group is not reference]
    return paired_differences(pairs, metric)


def _is_better(one: float, other: float, mode: str) -> bool:
    return one > other if mode == "max" else one < other
