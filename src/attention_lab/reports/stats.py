"""Statistics over a few seeds: intervals, paired tests, adjusted p-values, effect sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import sub
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, poch, stdtr, stdtrit

from attention_lab.data.core.metric_info import UNBOUNDED, Bounds

#: The relative deviation below which values count as equal. Metrics are in single precision, and
#: its rounding (2⁻²⁴) is not a difference between seeds.
ROUNDING = 2.0**-22
#: The fewest seeds for an interval and for a test.
ENOUGH_SEEDS = 3
#: exp() of a greater exponent may overflow.
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class Interval:
    """A mean of ``n`` values with its confidence interval."""

    n: int
    mean: float
    #: NaN if there is no interval: for one value, or values that are all equal.
    low: float
    #: NaN if there is no interval.
    high: float
    #: The values whose mean this is.
    values: tuple[float, ...] = ()

    @property
    def is_bounded(self) -> bool:
        """Whether there is an interval to show.

        For two values there is none: it would usually cover all possible values.
        """
        return self.n >= ENOUGH_SEEDS and not math.isnan(self.low)

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval; the mean twice if there is none."""
        return (self.low, self.high) if self.is_bounded else (self.mean, self.mean)

    def __str__(self) -> str:
        if not self.is_bounded:
            return f"{self.mean:g} (n = {self.n}: no interval)"
        return f"{self.mean:g} [{self.low:g}, {self.high:g}]"


def mean_interval(
    values: Sequence[float], confidence: float = 0.95, bounds: Bounds = UNBOUNDED
) -> Interval:
    """The mean of ``values`` with Student's t interval, inside the bounds of the metric.

    mean ± t · s / √n, where t is the quantile of Student's t with n - 1 degrees of freedom and s
    the sample deviation (Student 1908, "The probable error of a mean", Biometrika 6). For normal
    values its coverage is exact from n = 2.

    For skewed values its coverage is lower, and values near a bound are skewed. Therefore the
    interval is also computed from the logarithms of the distances to the bounds (for two bounds,
    from the log-odds). The result is the union of both intervals, cut at the bounds. The true mean
    lies within the bounds, so the cut loses no coverage, and the coverage of the union is at least
    that of Student's t alone. ``benchmarks/intervals.py`` simulates the coverage. A value at a
    bound gets half the distance of the next one. Bounds that a value violates are ignored.

    Values that are all equal, up to rounding, have no interval: without spread, the variation
    between seeds cannot be estimated.

    A percentile bootstrap would cover too rarely (Hesterberg 2015, "What teachers should know about
    the bootstrap", The American Statistician 69): for three values, its "95 %" interval is from the
    smallest to the largest, and contains the true mean in 1 - 2 · (1/2)³ = 75 % of cases.

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
    if n == 1 or _deviation(values) <= ROUNDING * max(map(abs, values)):
        return Interval(n, mean, math.nan, math.nan, tuple(values))
    low, high = _student(values, confidence)
    if bounds != UNBOUNDED and bounds[0] <= min(values) and max(values) <= bounds[1]:
        other_low, other_high = _on_log_scale(values, confidence, bounds)
        low, high = max(bounds[0], min(low, other_low)), min(bounds[1], max(high, other_high))
    return Interval(n, mean, low, high, tuple(values))


def _student(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """The ends of Student's t interval of the mean of at least two values."""
    n, mean = len(values), fmean(values)
    half_width = float(stdtrit(n - 1, (1 + confidence) / 2)) * _deviation(values) / math.sqrt(n)
    return mean - half_width, mean + half_width


def _on_log_scale(
    values: Sequence[float], confidence: float, bounds: Bounds
) -> tuple[float, float]:
    """Student's t interval of the logarithms or log-odds, transformed back to the values."""
    least, most = bounds
    if math.isinf(least):
        return _student(values, confidence)
    above = _positive([value - least for value in values])
    if math.isinf(most):
        ends = _student(list(map(math.log, above)), confidence)
        low, high = (least + math.exp(min(end, _LARGEST_EXPONENT)) for end in ends)
    else:
        below = _positive([most - value for value in values])
        log_odds = [math.log(a) - math.log(b) for a, b in zip(above, below, strict=True)]
        ends = _student(log_odds, confidence)
        low, high = (least + (most - least) * float(expit(end)) for end in ends)
    return low, high


def _positive(distances: Sequence[float]) -> list[float]:
    """Distances to a bound, where 0 is replaced by half the smallest positive distance."""
    smallest = min(distance for distance in distances if distance > 0)
    return [distance or smallest / 2 for distance in distances]


def paired_difference(
    values: Mapping[int, float],
    baseline: Mapping[int, float],
    confidence: float = 0.95,
    bounds: Bounds = UNBOUNDED,
) -> Interval:
    """The mean of ``values`` minus ``baseline`` on their shared seeds, with its interval.

    Both arguments map a seed to a value. Effects that a seed has on both, such as the order of the
    batches, cancel out. So this interval is often far narrower than that of either mean (Student
    1908, illustration I). It is Student's t interval, cut at the greatest difference that
    ``bounds`` allow. So it excludes 0 exactly if :func:`paired_p_value` is below
    1 - ``confidence``. Differences that are all equal, up to rounding, have no interval.

    Raises:
        ValueError: if the two share no seed.
    """
    ours, theirs = _on_shared_seeds(values, baseline)
    differences = list(map(sub, ours, theirs))
    n, mean = len(differences), fmean(differences)
    if n == 1 or _deviation(differences) <= _rounding(ours, theirs):
        return Interval(n, mean, math.nan, math.nan, tuple(differences))
    low, high = _student(differences, confidence)
    if all(bounds[0] <= value <= bounds[1] for value in (*ours, *theirs)):
        span = bounds[1] - bounds[0]
        low, high = max(low, -span), min(high, span)
    return Interval(n, mean, low, high, tuple(differences))


def paired_p_value(values: Mapping[int, float], baseline: Mapping[int, float]) -> float:
    """The two-sided p-value of the paired t-test of "no difference" on the shared seeds.

    t = mean / (s / √n) of the differences, against Student's t with n - 1 degrees of freedom
    (Student 1908). It assumes normal differences; :func:`smallest_p_value` gives the smallest
    p-value without that assumption.

    NaN if no test is possible: for fewer than three shared seeds, or if all differences are equal
    up to rounding (then the seeds probably have no effect).

    Raises:
        ValueError: if the two share no seed.
    """
    ours, theirs = _on_shared_seeds(values, baseline)
    differences, n = list(map(sub, ours, theirs)), len(ours)
    if n < ENOUGH_SEEDS or (deviation := _deviation(differences)) <= _rounding(ours, theirs):
        return math.nan
    t = fmean(differences) / (deviation / math.sqrt(n))
    return 2 * float(stdtr(n - 1, -abs(t)))


def smallest_p_value(n: int, family: int = 1) -> float:
    """The smallest two-sided p-value that ``n`` paired seeds can have without assuming normality.

    If there is no true difference, all 2ⁿ patterns of signs of the n differences are equally
    likely. In the most extreme pattern, all signs are the same; it has p = 2 / 2ⁿ (the exact test
    of Fisher 1935, "The design of experiments", §21; Pitman 1937, "Significance tests which may be
    applied to samples from any populations", Supplement to the JRSS 4). So the smallest p is 0.25
    for three seeds and 0.0625 for five; a p below 0.05 needs at least six seeds. A smaller p from
    :func:`paired_p_value` depends on the assumption of normal differences. So few seeds cannot
    verify this assumption.

    Args:
        n: number of paired seeds.
        family: number of differences that Holm's procedure adjusts for; the smallest p-value is
            multiplied by it.

    Raises:
        ValueError: if ``n`` or ``family`` is below 1.
    """
    if n < 1 or family < 1:
        raise ValueError(f"n and family must be at least 1, got {n} and {family}")
    return min(1.0, family * 2.0 ** (1 - n))


def effect_size(values: Mapping[int, float], baseline: Mapping[int, float]) -> float:
    """Hedges' g_av: the mean paired difference in standard deviations of a single run.

    g_av = J(n - 1) · mean(values - baseline) / √((s₁² + s₂²) / 2) on the n shared seeds, where s₁
    and s₂ are the two sample deviations (Bonett 2008, "Confidence intervals for standardized
    linear contrasts of means", Psychological Methods 13; d_av in Cumming 2012, "Understanding the
    new statistics", ch. 11), and J(m) = Γ(m/2) / (√(m/2) · Γ((m - 1)/2)) corrects the bias for few
    seeds (Hedges 1981, "Distribution theory for Glass's estimator of effect size and
    related estimators", Journal of Educational Statistics 6), with n - 1 degrees of freedom, as
    pairs have (Borenstein et al. 2009, "Introduction to meta-analysis", ch. 4).

    g_rm and d_z (Lakens 2013, "Calculating and reporting effect sizes", Frontiers in Psychology 4)
    are not used, because they divide by the deviation of the differences. This deviation is small
    where paired values are correlated, and the correlation cannot be estimated from a few pairs.
    g_av is biased towards zero if paired values are uncorrelated, by 29 % for n = 3 and by 12 % for
    n = 5; it is unbiased if they are fully correlated.

    NaN for fewer than three shared seeds (J(1) = 0), or without spread between seeds beyond
    rounding.

    Raises:
        ValueError: if the two share no seed.
    """
    ours, theirs = _on_shared_seeds(values, baseline)
    n = len(ours)
    if n < 3:
        return math.nan
    deviation = math.hypot(_deviation(ours), _deviation(theirs)) / math.sqrt(2)
    if deviation <= _rounding(ours, theirs):
        return math.nan
    # poch(x, ½) = Γ(x + ½) / Γ(x), where each Γ alone overflows for hundreds of seeds.
    correction = float(poch((n - 2) / 2, 0.5)) / math.sqrt((n - 1) / 2)
    return correction * fmean(map(sub, ours, theirs)) / deviation


def holm_factors(p_values: ArrayLike) -> NDArray[np.float64]:
    """The factor by which Holm's procedure multiplies each p-value.

    A p-value of NaN has the factor NaN and does not count as a test of the family.

    The step-down procedure of Holm (1979, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6) controls the family-wise error rate: at a
    level such as 0.05, the probability of rejecting any true null hypothesis is at most that level.
    The tests may depend on each other.

    An interval at the confidence 1 - 0.05 / factor excludes 0 exactly if the adjusted p is below
    0.05 (Serlin 1993, "Confidence intervals and the scientific method: a case for Holm on the
    range", Journal of Experimental Education 61). So the probability that any interval of a family
    excludes a true difference of 0 is at most 5 %.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # NaN is sorted last
    in_order, steps = p[order], np.arange(len(order), 0, -1, dtype=np.float64)
    largest = np.maximum.accumulate(in_order * steps)
    factors = np.full(p.shape, math.nan)
    factors[order] = np.divide(largest, in_order, out=steps, where=in_order > 0)
    return factors


def _on_shared_seeds(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> tuple[list[float], list[float]]:
    shared = [seed for seed in values if seed in baseline]
    if not shared:
        raise ValueError(f"no shared seed: {sorted(values)} and {sorted(baseline)}")
    return [values[seed] for seed in shared], [baseline[seed] for seed in shared]


def _deviation(values: Sequence[float]) -> float:
    """The sample standard deviation, ten times faster than the standard library's."""
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _rounding(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The deviation that rounding of the metrics alone may cause."""
    return ROUNDING * max(map(abs, (*ours, *theirs)))
