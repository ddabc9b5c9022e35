"""What a handful of seeds can say: intervals that cover, and differences on equal seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Interval:
    """A mean of ``n`` values and the range that its true value plausibly lies in."""

    n: int
    mean: float
    #: nan where ``n`` is 1: one value says nothing about its own spread.
    low: float
    #: nan where ``n`` is 1.
    high: float

    @property
    def is_bounded(self) -> bool:
        """Whether there are bounds at all, which takes two values."""
        return self.n > 1

    def __str__(self) -> str:
        if not self.is_bounded:
            return f"{self.mean:g} (n = 1: no interval)"
        return f"{self.mean:g} [{self.low:g}, {self.high:g}]"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of ``values`` with Student's t interval.

    mean ± t · s / √n, where t is the quantile of Student's t with n - 1 degrees of freedom and s
    the sample deviation (Student 1908, "The probable error of a mean", Biometrika 6). For normal
    values, and final metrics over seeds are roughly that, it covers as often as it says from n = 2.
    A percentile bootstrap does not (Hesterberg 2015, "What teachers should know about the
    bootstrap", The American Statistician 69): of three values, its "95 %" interval goes from the
    smallest to the largest, which has the true mean between them in 1 - 2 · (1/2)³ = 75 % of cases.

    Raises:
        ValueError: for no values, one that is not finite, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if not values:
        raise ValueError("an interval needs at least one value")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"an interval needs finite values, got {list(values)}")
    n, mean = len(values), fmean(values)
    if n == 1:
        return Interval(1, mean, math.nan, math.nan)
    half_width = float(stdtrit(n - 1, (1 + confidence) / 2)) * stdev(values) / math.sqrt(n)
    return Interval(n, mean, mean - half_width, mean + half_width)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95
) -> Interval:
    """The mean of ``values`` minus ``baseline`` on the seeds that both have, with its interval.

    Both map a seed to a value. What a seed decides for both (the order of the batches) cancels out
    of the difference, so this interval is often far narrower than either mean's (Student 1908,
    illustration I).

    Raises:
        ValueError: if the two share no seed.
    """
    return mean_interval(_differences(values, baseline), confidence)


def paired_p_value(values: Mapping[int, float], baseline: Mapping[int, float]) -> float:
    """The two-sided p-value of the paired t-test of "no difference" on the shared seeds.

    nan where there is nothing to test with: fewer than two shared seeds, or differences that are
    all equal (a sign of seeds without effect, not of certainty).

    Raises:
        ValueError: if the two share no seed.
    """
    differences = _differences(values, baseline)
    if len(differences) < 2 or stdev(differences) == 0:
        return math.nan
    t = fmean(differences) / (stdev(differences) / math.sqrt(len(differences)))
    return 2 * float(stdtr(len(differences) - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """``p_values``, adjusted for how many there are; nan stays nan and counts for nothing.

    The step-down procedure of Holm (1979, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6): the chance that any true "no difference" of
    the family falls below a level is at most that level, however the tests depend on each other.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[i] = largest
    return adjusted


def _differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    shared = [seed for seed in values if seed in baseline]
    if not shared:
        raise ValueError(f"no shared seed: {sorted(values)} and {sorted(baseline)}")
    return [values[seed] - baseline[seed] for seed in shared]
