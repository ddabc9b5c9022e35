"""Intervals cover as often as they say, and agree with scipy."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from attention_lab.sweeps.statistics import (
    Interval,
    holm,
    mean_interval,
    paired_difference,
    paired_p_value,
)

TRUE_MEAN = 0.12


def simulated_sweeps(n: int) -> np.ndarray:
    """2000 sweeps of n seeds each."""
    return np.random.default_rng(0).normal(TRUE_MEAN, 0.01, size=(2000, n))


def coverage(intervals: list[tuple[float, float]]) -> float:
    return sum(low <= TRUE_MEAN <= high for low, high in intervals) / len(intervals)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_covers_as_often_as_it_says(n: int) -> None:
    intervals = [mean_interval(values.tolist()) for values in simulated_sweeps(n)]
    assert 0.93 < coverage([(i.low, i.high) for i in intervals]) < 0.97


def test_a_percentile_bootstrap_would_not_cover() -> None:
    """The number in the docstring of mean_interval: all 27 resamples of three values."""
    draws = np.array(list(itertools.product(range(3), repeat=3)))
    means = simulated_sweeps(3)[:, draws].mean(axis=2)
    low, high = np.percentile(means, [2.5, 97.5], axis=1, method="inverted_cdf")
    assert coverage(list(zip(low, high, strict=True))) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("values", [[0.1, 0.3], [1.0, 2.0, 4.0], [3.0, 1.0, 4.0, 1.0, 5.0]])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_agrees_with_scipy(values: list[float], confidence: float) -> None:
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    interval = mean_interval(values, confidence)
    assert interval.n == len(values)
    assert interval.mean == pytest.approx(np.mean(values))
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_interval_and_says_so() -> None:
    interval = mean_interval([0.25])
    assert (interval.n, interval.mean) == (1, 0.25)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.is_bounded
    assert str(interval) == "0.25 (n = 1: no interval)"


def test_an_interval_reads_as_mean_and_bounds() -> None:
    assert str(Interval(3, 0.25, 0.2, 0.3)) == "0.25 [0.2, 0.3]"


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        ([], 0.95, "at least one value"),
        ([0.1, math.nan], 0.95, "finite values"),
        ([0.1, 0.2], 95, "between 0 and 1, got 95"),
    ],
)
def test_refuses(values: list[float], confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(values, confidence)


def test_differences_are_paired_by_seed_whatever_the_order() -> None:
    additive = {0: 0.10, 1: 0.12, 2: 0.14, 7: 9.0}
    scaled = {2: 0.22, 0: 0.20, 1: 0.21, 8: -9.0}
    interval = paired_difference(additive, scaled)
    # Differences of -0.10, -0.09, -0.08: t(2 degrees) is 4.302653, the deviation 0.01.
    half_width = 4.302653 * 0.01 / math.sqrt(3)
    assert interval.n == 3
    assert interval.mean == pytest.approx(-0.09)
    assert interval.low == pytest.approx(-0.09 - half_width)
    assert interval.high == pytest.approx(-0.09 + half_width)


def test_p_value_agrees_with_scipy() -> None:
    one, other = {0: 0.3, 1: 0.1, 2: 0.4, 3: 0.2}, {0: 0.2, 1: 0.2, 2: 0.1, 3: 0.15}
    expected = stats.ttest_rel(list(one.values()), list(other.values())).pvalue
    assert paired_p_value(one, other) == pytest.approx(expected)


@pytest.mark.parametrize("other", [{0: 0.5}, {0: 0.5, 1: 0.25}], ids=["one seed", "no spread"])
def test_what_cannot_be_tested_has_no_p_value(other: dict[int, float]) -> None:
    assert math.isnan(paired_p_value({0: 1.0, 1: 0.75}, other))


@pytest.mark.parametrize("function", [paired_difference, paired_p_value])
def test_no_shared_seed_is_an_error(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"no shared seed: \[0\] and \[1\]"):
        function({0: 0.1}, {1: 0.1})


def test_holm_by_hand() -> None:
    # Sorted: 0.01 * 3, 0.02 * 2, then 0.03 * 1, which may not be smaller than the one before it.
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_does_not_count_what_was_not_tested() -> None:
    first, second, third = holm([0.01, math.nan, 0.04])
    assert (first, third) == pytest.approx((0.02, 0.04))
    assert math.isnan(second)
