"""What a report knows of metrics from their names: direction, bounds, and which are percentages."""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from attention_lab.reports.runs import section
from attention_lab.reports.stats import UNBOUNDED, Bounds


class _Kind(NamedTuple):
    mode: Literal["min", "max"]
    bounds: Bounds
    #: Whether values are shown in percent.
    is_rate: bool = False


#: Kinds of metrics by a pattern of their names. An error rate exceeds 1 where a prediction is
#: longer than its reference.
_KINDS: Mapping[str, _Kind] = {
    r"per|wer|cer|.*error_rate": _Kind("min", (0.0, math.inf), is_rate=True),
    r".*accuracy": _Kind("max", (0.0, 1.0), is_rate=True),
    r".*loss": _Kind("min", (0.0, math.inf)),
    r".*perplexity": _Kind("min", (1.0, math.inf)),
    r".*bits_per_character": _Kind("min", (0.0, math.inf)),
    r".*(bleu|chrf)": _Kind("max", (0.0, 1.0)),
}
_UNKNOWN = _Kind("max", UNBOUNDED)


def _kind(metric: str) -> _Kind:
    """The kind of a metric, or of a metric on a slice such as "accuracy/length=1-9"."""
    name = metric.partition("/")[0]
    return next((k for pattern, k in _KINDS.items() if re.fullmatch(pattern, name)), _UNKNOWN)


def is_rate(metric: str) -> bool:
    """Whether a metric is shown in percent: error rates and accuracies are."""
    return _kind(metric).is_rate


def direction(metric: str, result: Mapping[str, object]) -> str:
    """Which values of a metric are better, "min" or "max": as recorded, or from its name."""
    return str(result.get("mode")) if metric == result.get("monitor") else _kind(metric).mode


def bounds_of(metric: str, result: Mapping[str, Any] | None = None) -> Bounds:
    """The bounds of a metric: as recorded in a result, or from its name.

    >>> bounds_of("accuracy/length=1-9"), bounds_of("reward")
    ((0.0, 1.0), (-inf, inf))
    """
    recorded = section(result, "bounds").get(metric.partition("/")[0])
    if isinstance(recorded, list) and len(recorded) == 2:
        low, high = (_number(end) for end in recorded)
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        if low < high:
            return low, high
    return _kind(metric).bounds


def _number(end: object) -> float | None:
    if isinstance(end, bool) or not isinstance(end, int | float):
        return None
    return float(end) if math.isfinite(end) else None
