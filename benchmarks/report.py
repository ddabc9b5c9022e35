"""The time and memory of a report on many runs.

It writes the files of a finished sweep (configs, results, metrics.csv with a row for each logged
step), then measures `attention-lab report` on them in a separate process:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/report.py
"""

import argparse
import csv
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attention_lab.config.compose import composed
from attention_lab.tracking.record_files import json_text
from attention_lab.tracking.run_directory import write_config

SLICES = ("1-8", "9-16", "17-24", "25-32")


def curve(rows: int, final: float, noise: random.Random) -> Iterator[tuple[int, float]]:
    """An error rate that falls towards its final value."""
    for row in range(1, rows + 1):
        yield 10 * row, (final + 0.6 * math.exp(-6 * row / rows)) * noise.uniform(0.97, 1.03)


def write_run(directory: Path, config: dict[str, Any], job: list[str], rows: int) -> None:
    """Write the files of one finished run."""
    noise = random.Random(str(directory.name))
    width, seed = int(job[0].partition("=")[2]), config["seed"]
    final = 0.12 + 2.0 / width + noise.gauss(0, 0.004)
    directory.mkdir()
    write_config(directory, config)
    values = dict(curve(rows, final, noise))
    with (directory / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss", "validation/loss", "validation/per"])
        writer.writerows([0, step, 2 * value, 3 * value, value] for step, value in values.items())
    sliced = {
        f"token_accuracy/length={name}": 1 - final * (i + 1) / 2 for i, name in enumerate(SLICES)
    }
    last = {"per": list(values.values())[-1], "loss": 3 * final}
    result = {
        "monitor": "per",
        "mode": "min",
        "validation": last,
        "last": last,
        "test": {"per": final, "wer": 2.5 * final, "loss": 3 * final, **sliced},
        "trivial_baseline": {"per": 0.51, "wer": 0.96},
        "shortcut_baselines": {"most frequent by letter": {"per": 0.35}},
        "parameters": 1000 * width + width**2,
        "tokens_per_second": 4e6 / width,
        "peak_memory_bytes": 300_000_000 + 400_000 * width,
        "steps": 10 * rows,
        "best_step": 10 * rows,
        "threshold": 0.35,
        "steps_to_threshold": 4 * rows,
        "area_under_curve": final + 0.1,
        "seconds": {"total": width / 2, "training": width / 3},
    }
    (directory / "result.json").write_text(json_text(result))
    status = {
        "status": "finished",
        "started": f"2026-01-01T00:{seed % 60:02d}:00.000+00:00",
        "finished": "2026-01-01T01:00:00.000+00:00",
        "pid": 1,
        "host": "benchmark",
        "seed": seed,
        "overrides": job,
        "git_revision": "0123abc",
        "versions": {"torch": "2.13.0"},
        "error": None,
    }
    (directory / "status.json").write_text(json_text(status))


def write_sweep(sweep: Path, groups: int, seeds: int, rows: int) -> None:
    """Write the files of a finished sweep over d_model and seeds."""
    sweep.mkdir(parents=True, exist_ok=True)
    config = composed(["data=g2p", "model=recurrent_encoder_decoder"])
    jobs = []
    for group in range(groups):
        for seed in range(seeds):
            width = 16 * (group + 1)
            config["seed"] = config["data"]["seed"] = seed
            config["model"]["d_model"] = width
            job = [f"model.d_model={width}", f"seed={seed}"]
            name = ",".join(job)
            write_run(sweep / name, config, job, rows)
            jobs.append({"directory": name, "overrides": job})
    record = {"command": "attention-lab train -m …", "started": "2026-01-01T00:00:00.000+00:00"}
    ended = {"ended": "2026-01-01T02:00:00.000+00:00", "pid": 1, "host": "benchmark"}
    content = {**record, **ended, "jobs": jobs, "tuning": None}
    (sweep / "sweep.json").write_text(json_text(content))


def measure(sweep: Path) -> tuple[float, float, float]:
    """The wall time and CPU time in seconds, and the peak memory in MB, of a report on a sweep."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "attention_lab", "report", str(sweep)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"attention-lab report exited with code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000, help="logged rows of a run")
    parser.add_argument("--keep", type=Path, help="keep the sweep in this directory")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        sweep = chosen.keep or Path(directory) / "sweep"
        write_sweep(sweep, chosen.groups, chosen.seeds, chosen.rows)
        seconds, busy, megabytes = measure(sweep)
        page = (sweep / "report.html").stat().st_size / 1e6
    runs = chosen.groups * chosen.seeds
    print(f"{runs} runs of {chosen.rows} rows: {seconds:.1f} s ({busy:.1f} s of CPU time)")
    print(f"peak memory {megabytes:.0f} MB, report.html {page:.1f} MB")


if __name__ == "__main__":
    main()
