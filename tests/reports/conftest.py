"""Fixtures that write run directories as training does."""

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from attention_lab.reports.comparison import Comparison, compare
from attention_lab.reports.runs import read_runs
from attention_lab.tracking.record_files import with_version

WriteRun = Callable[..., Path]
Compared = Callable[..., Comparison]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes one run into the sweep directory ``tmp_path / "sweep"`` and returns its directory."""

    def write(
        overrides: str,
        seed: int,
        *,
        status: str = "finished",
        test: Mapping[str, float] | None = None,
        curve: Mapping[int, float] | None = None,
        name: str | None = None,
        record: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
        maps: Sequence[str] = (),
    ) -> Path:
        directory = tmp_path / "sweep" / (name or f"{overrides.replace('/', '_')},seed={seed}")
        directory.mkdir(parents=True)
        status_record = with_version(_record(overrides, seed, status, record))
        (directory / "status.json").write_text(json.dumps(status_record))
        settings = {"seed": seed, "data": {"_target_": "data.G2P", "seed": seed}, **(config or {})}
        (directory / "config.yaml").write_text(yaml.safe_dump(with_version(settings)))
        if status == "finished":
            (directory / "result.json").write_text(json.dumps(with_version(_result(test, result))))
        if curve:
            _write_metrics(directory / "metrics.csv", curve)
        for picture in maps:
            path = directory / "attention" / picture
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 4), (seed, 0, 0)).save(path)
        return directory

    return write


@pytest.fixture
def compared(write_run: WriteRun) -> Compared:
    """Compares groups, given their PER on seeds 0, 1, …; None is a run that failed."""

    def comparison(
        scores: Mapping[str, Sequence[float | None]],
        baseline: str | None = None,
        **result: object,
    ) -> Comparison:
        for label, values in scores.items():
            for seed, value in enumerate(values):
                write = {"status": "failed"} if value is None else {"test": {"per": value}}
                run = write_run(f"attention={label}", seed, **write, result=result)
        return compare(read_runs([run.parent]), baseline)

    return comparison


@pytest.fixture
def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def sweep(write_run: WriteRun, dead_pid: int) -> Path:
    """Three groups of three seeds, in which one run diverged, one failed and one died."""
    for seed in range(3):
        write_run(
            "attention=scaled,data=g2p",
            seed,
            test={"loss": 0.5, "per": 0.20 + 0.01 * seed, "wer": 0.60},
            curve={100: 0.5, 200: 0.2 + 0.01 * seed},
        )
        write_run(
            "attention=additive,data=g2p",
            seed,
            test={"loss": 0.4, "per": 0.10 + 0.02 * seed, "wer": 0.40 + 0.02 * seed},
            curve={100: 0.4, 200: 0.1 + 0.02 * seed},
            maps=["step-000100/word-cross.png", "step-000200/word-cross.png"],
        )
    write_run("attention=general,data=g2p", 0, test={"loss": 0.4, "per": 0.15, "wer": 0.5})
    error = {"error": "the loss is nan at step 70"}
    write_run("attention=general,data=g2p", 1, status="diverged", record=error)
    error = {"error": "RuntimeError: out of memory\nTraceback"}
    write_run("attention=general,data=g2p", 2, status="failed", record=error)
    pid = {"pid": dead_pid}
    return write_run("attention=general,data=g2p", 3, status="running", record=pid).parent


def _record(
    overrides: str, seed: int, status: str, changes: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "status": status,
        "started": f"2026-01-02T03:{len(overrides):02d}:05.678+00:00",
        "finished": "2026-01-02T04:05:06.789+00:00",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "seed": seed,
        "overrides": [*overrides.split(","), f"seed={seed}"],
        "git_revision": "0123abc",
        "command": "attention-lab train -m",
        "versions": {"torch": "2.13.0"},
        "error": None,
        **(changes or {}),
    }


def _result(test: Mapping[str, float] | None, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "monitor": "per",
        "mode": "min",
        "test": test or {"per": 0.5},
        "trivial_baseline": {"per": 0.70, "wer": 0.99},
        "parameters": 1_234_567,
        "tokens_per_second": 10_123.0,
        "peak_memory_bytes": 612_000_000,
        "steps": 200,
        "threshold": 0.3,
        "steps_to_threshold": 200,
        "seconds": {"total": 90.0, "training": 75.0},
        **(changes or {}),
    }


def _write_metrics(path: Path, curve: Mapping[int, float]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "epoch", "train/loss", "validation/per"])
        for step, value in curve.items():
            writer.writerow([step - 1, 0, 1.5, ""])
            writer.writerow([step, 0, "", value])
