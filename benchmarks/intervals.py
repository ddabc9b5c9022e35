"""How often the 95 % intervals of a report cover the true mean of a metric between 0 and 1.

The values of the seeds are drawn from Beta distributions with different means, from almost normal
to very skewed; some are fractions of 1,000 test examples. The table has the coverage of a report's
intervals and, in brackets, of Student's t intervals without bounds.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/intervals.py
"""

import argparse
from collections.abc import Sequence

import numpy as np

from attention_lab.reports.stats import Interval, mean_interval, paired_difference

#: Mean and standard deviation over seeds.
SHAPES = (
    *((0.01, 0.003), (0.01, 0.01), (0.1, 0.02), (0.1, 0.1)),
    *((0.5, 0.05), (0.5, 0.2), (0.5, 0.35)),
    *((0.9, 0.05), (0.99, 0.003), (0.99, 0.01), (0.99, 0.02)),
)
SEEDS = (2, 3, 5, 10)
UNIT = (0.0, 1.0)


def draw(mean: float, deviation: float, shape: tuple[int, ...], examples: int = 0) -> np.ndarray:
    """Values from a Beta distribution, rounded at random to fractions of ``examples`` if given."""
    concentration = mean * (1 - mean) / deviation**2 - 1
    random = np.random.default_rng(0)
    values = random.beta(mean * concentration, (1 - mean) * concentration, shape)
    return random.binomial(examples, values) / examples if examples else values


def coverage(intervals: Sequence[Interval], true: float) -> float:
    """The fraction of intervals that contain the true value; missing intervals do not count."""
    known = [one for one in intervals if one.low == one.low]  # NaN: no interval
    return sum(one.low <= true <= one.high for one in known) / len(known)


def of_means(mean: float, deviation: float, n: int, count: int, examples: int = 0) -> str:
    """The coverage of intervals of a mean and, in brackets, of Student's t intervals."""
    values = draw(mean, deviation, (count, n), examples).tolist()
    ours = coverage([mean_interval(each, bounds=UNIT) for each in values], mean)
    plain = coverage([mean_interval(each) for each in values], mean)
    return f"{100 * ours:.1f} ({100 * plain:.1f})"


def of_differences(mean: float, deviation: float, n: int, count: int) -> str:
    """The coverage of intervals of a paired difference; both groups have one distribution."""
    values = draw(mean, deviation, (count, 2, n)).tolist()
    pairs = [(dict(enumerate(one)), dict(enumerate(other))) for one, other in values]
    intervals = [paired_difference(one, other, bounds=UNIT) for one, other in pairs]
    return f"{100 * coverage(intervals, 0.0):.1f}"


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="simulated groups of each row")
    count = parser.parse_args().count
    print(f"| mean | deviation | {' | '.join(f'n = {n}' for n in SEEDS)} |")
    print("|---|---|" + "---|" * len(SEEDS))
    for mean, deviation in SHAPES:
        cells = [of_means(mean, deviation, n, count) for n in SEEDS]
        print(f"| {mean} | {deviation} | {' | '.join(cells)} |")
    for mean, deviation in ((0.99, 0.003), (0.99, 0.01)):
        cells = [of_means(mean, deviation, n, count, 1000) for n in SEEDS]
        print(f"| {mean}, of 1,000 examples | {deviation} | {' | '.join(cells)} |")
    for mean, deviation in ((0.5, 0.2), (0.99, 0.01)):
        cells = [of_differences(mean, deviation, n, count) for n in SEEDS]
        print(f"| difference of two at {mean} | {deviation} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
