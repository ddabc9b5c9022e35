"""The time of a sweep's job besides its training, with one job at a time.

The time of a job runs from the request for its process until the process has exited. Its training
time is in ``result.json``. The rest is the time for the process, the data, the model, a validation
and attention maps (both also in ``result.json``), the test, checkpoints and records. For
comparison, it prints the time of the imports in a new process. With --together N, it then runs N
jobs at a time (on one GPU, if the trainer uses a GPU) and compares their time with that of one job.
Run it on an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/jobs.py
    .venv/bin/python benchmarks/jobs.py --jobs 3 --together 8 --steps 1000 data=digits trainer=gpu
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from attention_lab.config.compose import composed
from attention_lab.sweeps.jobs import build_jobs, make_job
from attention_lab.sweeps.local_executor import Resources, run_jobs
from attention_lab.tracking.run_status import RunStatus


class Stopwatch:
    """A watcher that records the time at which each job ended."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def refresh(self) -> None:
        """Do nothing: jobs are timed when they end."""

    def ended(self, directory: Path, found: RunStatus) -> None:
        assert found.state == "finished", found.error
        self.times.append(time.perf_counter())


def measure(
    jobs: int, together: int, overrides: Sequence[str], steps: int
) -> tuple[list[float], list[dict[str, Any]]]:
    """Train seeds; returns when each ended, in seconds since the start (0 first), and the results.

    Args:
        jobs: number of seeds.
        together: how many train at a time.
        overrides: of each job.
        steps: of each job.
    """
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as directory:
        specs = [
            make_job(Path(directory), composed(own), own, (), "benchmark")
            for seed in range(jobs)
            for own in [[*overrides, f"trainer.max_steps={steps}", f"seed={seed}"]]
        ]
        for spec in specs:
            spec.directory.mkdir()
        build_jobs(specs)
        stopwatch.times = [time.perf_counter()]
        run_jobs(specs, Resources(parallel=together, threads=1), stopwatch)
        results = [json.loads((spec.directory / "result.json").read_text()) for spec in specs]
    return [each - stopwatch.times[0] for each in stopwatch.times], results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1, help="of each job")
    parser.add_argument("--together", type=int, metavar="N", help="then run N jobs at a time")
    parser.add_argument("--json", type=Path, help="write the figures of --together to this file")
    default = ["data=digits", "trainer=cpu", "logger=csv"]
    parser.add_argument("overrides", nargs="*", default=default, help="of each job")
    chosen = parser.parse_args()
    ends, results = measure(chosen.jobs, 1, chosen.overrides, chosen.steps)
    whole = [end - begin for begin, end in pairwise(ends)]
    beyond = [
        seconds - result["seconds"]["training"]
        for seconds, result in zip(whole, results, strict=True)
    ]
    own = [
        result["seconds"]["validation"] + result["seconds"]["attention_maps"] for result in results
    ]
    rest = [seconds - known for seconds, known in zip(beyond, own, strict=True)]
    print(f"first job   {whole[0]:.2f} s: the server imports everything, once")
    print(f"a job       {statistics.median(whole):.2f} s (median of {len(whole)})")
    print(f"of it       {statistics.median(beyond):.2f} s beyond its own training")
    print(f"and of that {statistics.median(rest):.2f} s beyond validation and maps")
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import attention_lab.training.run"], check=True)
    print(f"imports     {time.perf_counter() - started:.2f} s in a new process")
    if chosen.together:
        compare(chosen, statistics.median(whole))


def compare(chosen: argparse.Namespace, one: float) -> None:
    """Print the time of several jobs at a time, and how many times that of one it is."""
    ends, _ = measure(chosen.together, chosen.together, chosen.overrides, chosen.steps)
    figures = {"jobs": chosen.together, "seconds": ends[-1], "seconds_of_one": one}
    figures["ratio"] = ends[-1] / one
    print(f"{chosen.together} together  {ends[-1]:.2f} s, {figures['ratio']:.2f} times one job")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
