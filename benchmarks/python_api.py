"""The time of the Python API: the import, loading a run, and loading a sweep of many runs.

It trains one small run, writes the files of a finished sweep as benchmarks/report.py does, and
measures each call in a new process, after the imports that it needs:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/python_api.py
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from report import write_sweep

import attention_lab as al

#: What is measured: its name, the imports before it, and the call.
CALLS = {
    "import attention_lab": ("", "import attention_lab"),
    "load_run(…).model": ("import attention_lab as al; al.load_run", "al.load_run(run).model"),
    "load_sweep(…).runs": (
        "import attention_lab as al, pandas; al.load_sweep",
        "al.load_sweep(sweep).runs",
    ),
}


def seconds(before: str, call: str, run: Path, sweep: Path) -> float:
    """The wall time of a call in a new process."""
    code = (
        f"import time; run, sweep = {str(run)!r}, {str(sweep)!r}\n{before}\n"
        f"began = time.perf_counter()\n{call}\nprint(time.perf_counter() - began)"
    )
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000, help="runs of the sweep, 5 in a group")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run, sweep = Path(directory) / "run", Path(directory) / "sweep"
        small = ("data=g2p", "data.limit=600", "trainer=cpu", "trainer.max_steps=3", "logger=csv")
        al.train(al.compose(*small), run)
        write_sweep(sweep, groups=chosen.runs // 5, seeds=5, rows=100)
        for name, (before, call) in CALLS.items():
            times = [seconds(before, call, run, sweep) for _ in range(chosen.repeats)]
            print(f"{name:<22} {statistics.median(times):.2f} s (up to {max(times):.2f} s)")


if __name__ == "__main__":
    main()
