"""scripts/multi-gpu-check also runs on the CPU, so that it is tested without GPUs."""

import json
import subprocess
import sys
from pathlib import Path

#: The others are single commands, which tests/training/ranks run.
CHECKS = ("killed_rank", "timeout_of_a_rank")


def test_failures_of_ranks_are_checked_on_the_cpu(tmp_path: Path) -> None:
    done = subprocess.run(
        ["scripts/multi-gpu-check", "--device", "cpu", str(tmp_path), *CHECKS],
        cwd=Path(__file__).parents[1],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["devices"] == 2
    assert {name for name, each in results["checks"].items() if each["passed"]} == set(CHECKS)
