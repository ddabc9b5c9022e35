"""The paired t-tests between all pairs of groups, computed for many groups at once."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from attention_lab.reports.groups import Group
from attention_lab.reports.stats import ENOUGH_SEEDS, ROUNDING, holm_factors

Floats = NDArray[np.float64]


class PairwiseTests:
    """The paired t-tests between all pairs of groups, adjusted as one family by Holm's procedure.

    Holm's procedure ranks the p-values of all pairs: two million for 2,000 groups. Therefore they
    are computed with NumPy, and only Holm's factors and the significant signs are kept. The
    p-values are those of :func:`~attention_lab.reports.stats.paired_p_value` up to rounding.

    Args:
        groups: the groups.
        metric: the test metric.
    """

    def __init__(self, groups: Sequence[Group], metric: str) -> None:
        scores = {group: group.scores(metric) for group in groups}
        tested = {group: each for group, each in scores.items() if len(each) >= ENOUGH_SEEDS}
        self._index = {group: index for index, group in enumerate(tested)}
        p_values, differences = _all_pairs(_by_seed(list(tested.values())))
        self._factors = holm_factors(p_values)
        signs = np.where(p_values * self._factors < 0.05, np.sign(differences), 0)
        count = len(tested)
        self._signs = np.zeros((count, count), np.int8)
        rows, columns = np.triu_indices(count, 1)
        self._signs[rows, columns], self._signs[columns, rows] = signs, -signs

    def factor(self, one: Group, other: Group) -> float:
        """Holm's factor of the p-value of a pair; NaN if there is no test."""
        if one not in self._index or other not in self._index:
            return math.nan
        row, column = sorted((self._index[one], self._index[other]))
        before = row * (2 * len(self._index) - row - 1) // 2
        return float(self._factors[before + column - row - 1])

    def signs(self, groups: Sequence[Group]) -> NDArray[np.int8]:
        """The sign of each significant difference between groups; 0 if it is not significant.

        [i, j] is 1 if the values of group i are greater than those of group j.
        """
        known = [position for position, group in enumerate(groups) if group in self._index]
        indices = [self._index[groups[position]] for position in known]
        signs = np.zeros((len(groups), len(groups)), np.int8)
        signs[np.ix_(known, known)] = self._signs[np.ix_(indices, indices)]
        return signs


def _by_seed(scores: Sequence[Mapping[int, float]]) -> Floats:
    """The scores as a matrix (groups × seeds), NaN where a group lacks a seed."""
    seeds = sorted({seed for each in scores for seed in each})
    rows = [[each.get(seed, math.nan) for seed in seeds] for each in scores]
    return np.array(rows, np.float64).reshape(len(scores), len(seeds))


def _all_pairs(scores: Floats) -> tuple[Floats, Floats]:
    """The p-value and the mean difference of each pair of rows: (0, 1), (0, 2), …, (1, 2), ….

    It works row by row, so that its memory does not grow with pairs × seeds.
    """
    count = len(scores)
    p_values, means = np.empty((2, count * (count - 1) // 2))
    start = 0
    for row in range(count - 1):
        end = start + count - row - 1
        p_values[start:end], means[start:end] = _to_others(scores[row], scores[row + 1 :])
        start = end
    return p_values, means


def _to_others(row: Floats, others: Floats) -> tuple[Floats, Floats]:
    """The p-value and the mean of ``row`` minus each of ``others``; p is NaN without a test."""
    differences = row - others
    is_shared = ~np.isnan(differences)
    n = is_shared.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):  # fewer than two shared seeds
        mean = np.where(is_shared, differences, 0).sum(1) / n
        squares = np.where(is_shared, (differences - mean[:, None]) ** 2, 0).sum(1)
        deviation = np.sqrt(squares / (n - 1))
        p_values = 2 * stdtr(n - 1, -np.abs(mean) / (deviation / np.sqrt(n)))
    largest = np.where(is_shared, np.maximum(np.abs(row), np.abs(others)), 0).max(1)
    is_tested = (n >= ENOUGH_SEEDS) & (deviation > ROUNDING * largest)
    return np.where(is_tested, p_values, math.nan), mean
