"""What a search over settings looks at: one validation metric of each run, and never test."""

import math
from pathlib import Path

from attention_lab.sweeps.run_status import read_status


def objective(directory: Path) -> float | None:
    """What a search is to minimise: a finished run's monitored validation metric.

    It is negated where more is better, as sweepers minimise unless they are told otherwise. Nothing
    of test is read, for a setting that was chosen by test metrics makes them no test.

    Args:
        directory: the run's.

    Returns:
        None for a run without a result, or whose metric is no finite number.
    """
    found = read_status(directory)
    if found.state != "finished" or not math.isfinite(found.value):
        return None
    return found.value if found.mode == "min" else -found.value
