"""The time of a sweep's job besides its training, with one job at a time.

The time of a job runs from the request for its process until the process has exited. Its training
time is in ``result.json``. The rest is the time for the process, the data, the model, a validation
and attention maps (both also in ``result.json``), the test, checkpoints and records. For
comparison, it prints the time of the imports in a new process. Run it on an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/jobs.py
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=20)
    default = ["data=digits", "trainer=cpu", "logger=csv"]
    parser.add_argument("overrides", nargs="*", default=default, help="of each job")
    chosen = parser.parse_args()
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as directory:
        jobs = [
            make_job(Path(directory), composed(overrides), overrides, (), "benchmark")
            for seed in range(chosen.jobs)
            for overrides in [[*chosen.overrides, "trainer.max_steps=1", f"seed={seed}"]]
        ]
        for job in jobs:
            job.directory.mkdir()
        build_jobs(jobs)
        stopwatch.times = [time.perf_counter()]
        run_jobs(jobs, Resources(parallel=1, threads=1), stopwatch)
        results = [json.loads((job.directory / "result.json").read_text()) for job in jobs]
    ends = zip(stopwatch.times, stopwatch.times[1:], strict=False)
    whole = [end - begin for begin, end in ends]
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


if __name__ == "__main__":
    main()
