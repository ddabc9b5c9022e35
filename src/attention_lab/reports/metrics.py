"""The direction and the bounds of metrics: as a run recorded them, or from their names."""

import math
from collections.abc import Mapping
from typing import Any

from attention_lab.data.core.metric_info import Bounds, metric_info
from attention_lab.reports.runs import section


def is_rate(metric: str) -> bool:
    """Whether a metric is shown in percent: error rates and accuracies are."""
    return metric_info(metric).is_rate


def direction(metric: str, result: Mapping[str, object]) -> str:
    """Which values of a metric are better, "min" or "max"."""
    return str(result.get("mode")) if metric == result.get("monitor") else metric_info(metric).mode


def bounds_of(metric: str, result: Mapping[str, Any] | None = None) -> Bounds:
    """The smallest and the greatest possible value of a metric.

    Args:
        metric: the metric, which may be on a slice.
        result: the result of a run, whose record of the bounds comes first.
    """
    recorded = section(result, "bounds").get(metric.partition("/")[0])
    if isinstance(recorded, list) and len(recorded) == 2:
        low, high = recorded
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        if low < high:
            return low, high
    return metric_info(metric).bounds
