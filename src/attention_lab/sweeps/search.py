"""What a search over settings looks at: one validation metric of each run, and never test."""

import json
from pathlib import Path

from attention_lab.reports.records import number


def objective(directory: Path) -> float | None:
    """What a search is to minimise: a finished run's monitored validation metric.

    It is negated where more is better, as sweepers minimise unless they are told otherwise. Nothing
    of test is read, for a setting that was chosen by test metrics makes them no test.

    Args:
        directory: the run's.

    Returns:
        None for a run without a result, or whose metric is no finite number.
    """
    try:
        result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    value = number(result, "validation", str(result.get("monitor")))
    return value if value is None or result["mode"] == "min" else -value
