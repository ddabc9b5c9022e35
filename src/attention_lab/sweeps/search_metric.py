"""The metric that a search minimizes: a validation metric, never a test metric."""

import math
from pathlib import Path

from attention_lab.tracking.run_status import read_status


def search_metric(directory: Path) -> float | None:
    """The monitored validation metric of a finished run, negated if higher is better.

    Test metrics are not read: if they selected a setting, they would be biased.

    Args:
        directory: of the run.

    Returns:
        None for a run without a result, or if the metric is NaN or infinite.
    """
    status = read_status(directory)
    if status.state != "finished" or not math.isfinite(status.value):
        return None
    return status.value if status.mode == "min" else -status.value
