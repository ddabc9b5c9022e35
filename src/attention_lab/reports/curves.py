"""Curves over training: the mean over seeds, with its interval, by step."""

import math
from collections.abc import Mapping, Sequence

from attention_lab.data.core.metric_info import Bounds
from attention_lab.reports.stats import Interval, mean_interval

#: A mean over seeds by training step.
Curve = Mapping[int, Interval]


def mean_curve(series: Sequence[Mapping[int, float]], bounds: Bounds, most: int) -> Curve:
    """Mean and interval over seeds at each step that all of them have.

    Args:
        series: the values of each seed by step.
        bounds: the smallest and the greatest possible value.
        most: the most steps to keep; longer series are thinned out evenly.
    """
    shared = set.intersection(*map(set, series)) if series else set()
    return {
        step: mean_interval([values[step] for values in series], bounds=bounds)
        for step in spread(sorted(shared), most)
    }


def spread(steps: Sequence[int], most: int) -> Sequence[int]:
    """At most ``most`` of the steps, evenly spread, with the last.

    >>> spread([1, 2, 3, 4], 2)
    [2, 4]
    """
    stride = math.ceil(len(steps) / most) or 1
    return steps[::-1][::stride][::-1]
