"""The range of values that a metric can have."""

import math
from collections.abc import Mapping
from typing import Any

from attention_lab.reports.runs import section
from attention_lab.reports.stats import UNBOUNDED, Bounds

#: By the end of its name, of a metric whose bounds are not recorded.
_BY_NAME: Mapping[str, Bounds] = {
    "accuracy": (0.0, 1.0),
    "error_rate": (0.0, math.inf),
    "loss": (0.0, math.inf),
    "perplexity": (1.0, math.inf),
    "bits_per_character": (0.0, math.inf),
    "bleu": (0.0, 1.0),
    "chrf": (0.0, 1.0),
}
_RATES = ("per", "wer", "cer")


def bounds_of(metric: str, result: Mapping[str, Any] | None) -> Bounds:
    """The bounds of a metric: as recorded in a result, or else as its name says.

    >>> bounds_of("accuracy/length=1-9", None), bounds_of("reward", None)
    ((0.0, 1.0), (-inf, inf))
    """
    name = metric.partition("/")[0]
    recorded = section(result, "bounds").get(name)
    if isinstance(recorded, list) and len(recorded) == 2:
        low, high = (_number(end) for end in recorded)
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        if low < high:
            return low, high
    if name in _RATES:
        return 0.0, math.inf
    return next((b for end, b in _BY_NAME.items() if name.endswith(end)), UNBOUNDED)


def _number(end: object) -> float | None:
    if isinstance(end, bool) or not isinstance(end, int | float):
        return None
    return float(end) if math.isfinite(end) else None
