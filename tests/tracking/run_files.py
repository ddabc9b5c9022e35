"""A config for records of runs, and the reading of their files."""

import json
from pathlib import Path
from typing import Any

CONFIG = {"seed": 0, "trainer": {"max_epochs": 2, "enable_progress_bar": True}}


def read_status(directory: Path) -> dict[str, Any]:
    """A run's ``status.json``."""
    status: dict[str, Any] = json.loads((directory / "status.json").read_text("utf-8"))
    return status
