"""Facts about metrics, by their names: which values are best, their bounds and their unit."""

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

#: The smallest and the greatest possible value of a metric.
Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)


class MetricInfo(NamedTuple):
    """Facts about a metric."""

    #: Whether the smallest or the greatest value is best.
    mode: Literal["min", "max"]
    bounds: Bounds
    #: Whether values are shown in percent.
    is_rate: bool = False


#: Metrics by a pattern of their names. An error rate can exceed 1, if a prediction is longer than
#: its reference.
_METRICS: Mapping[str, MetricInfo] = {
    r"per|wer|cer|.*error_rate": MetricInfo("min", (0.0, math.inf), is_rate=True),
    r".*accuracy": MetricInfo("max", (0.0, 1.0), is_rate=True),
    r".*loss": MetricInfo("min", (0.0, math.inf)),
    r".*perplexity": MetricInfo("min", (1.0, math.inf)),
    r".*bits_per_character": MetricInfo("min", (0.0, math.inf)),
    r".*(bleu|chrf)": MetricInfo("max", (0.0, 1.0)),
}
_UNKNOWN = MetricInfo("max", UNBOUNDED)


def metric_info(metric: str) -> MetricInfo:
    """The facts about a metric, or about a metric on a slice such as "accuracy/length=1-9".

    >>> metric_info("accuracy/length=1-9").bounds, metric_info("reward").bounds
    ((0.0, 1.0), (-inf, inf))
    """
    name = metric.partition("/")[0]
    return next((m for pattern, m in _METRICS.items() if re.fullmatch(pattern, name)), _UNKNOWN)


def with_unit(metric: str, value: float) -> str:
    """Format a value of a metric: rates in percent, others with four decimals.

    >>> with_unit("per", 0.1234), with_unit("loss", 1.5)
    ('12.34 %', '1.5000')
    """
    return f"{100 * value:.2f} %" if metric_info(metric).is_rate else f"{value:.4f}"
