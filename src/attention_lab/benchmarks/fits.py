"""How times grow with the length of a sequence, and where two implementations cross."""

import math
from collections.abc import Mapping


def exponent(points: Mapping[int, float]) -> float:
    """The exponent p of time ∝ length^p, fitted to times by length; NaN for fewer than two.

    The fit is by least squares of the logarithms.
    """
    if len(points) < 2:
        return math.nan
    xs = [math.log(length) for length in points]
    ys = [math.log(seconds) for seconds in points.values()]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return covariance / sum((a - x) ** 2 for a in xs)


def crossing(times: Mapping[int, float], others: Mapping[int, float]) -> float | None:
    """The length from which ``times`` are below ``others``, between measured lengths.

    Times between two lengths follow a power of the length. None if they are never, or not to the
    longest length, below the others; the shortest length if they always are.
    """
    lengths = sorted(times.keys() & others.keys())
    ratios = [math.log(times[length] / others[length]) for length in lengths]
    if not ratios or ratios[-1] >= 0:
        return None
    above = [index for index, ratio in enumerate(ratios) if ratio >= 0]
    if not above:
        return lengths[0]
    left = above[-1]
    share = ratios[left] / (ratios[left] - ratios[left + 1])
    return lengths[left] * (lengths[left + 1] / lengths[left]) ** share
