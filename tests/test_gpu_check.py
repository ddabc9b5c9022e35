"""scripts/gpu-check measures on the CPU, too, so that it is tested without a GPU."""

import json
import subprocess
import sys
from pathlib import Path


def test_figures_are_measured_on_the_cpu(tmp_path: Path) -> None:
    small = ("--device", "cpu", "--steps", "3")
    attention = "--attention linear --peers none --lengths 8 --repeat 1"
    command = ["scripts/gpu-check", str(tmp_path), *small, "--models", "self_attention_classifier"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={
            "PYTHON": sys.executable,
            "PATH": "/usr/bin:/bin",
            "ATTENTION": attention,
            "TRAIN": "--models recurrent_encoder_decoder --steps 9",
            "SDPA": "--lengths 8 --repeat 1 --batch-size 1",
            "CHARACTER": "--steps 9",
            "SEEDS": "--jobs 2 --steps 1 --together 2",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokens/s" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.keys() == {"device", "versions", "trainings"}
    assert all(each["tokens_per_second"] > 0 for each in figures["trainings"])
    seeds = json.loads((tmp_path / "seeds.json").read_text())
    assert seeds["jobs"] == 2
    assert seeds["ratio"] == seeds["seconds"] / seeds["seconds_of_one"] > 0
    for name in ("attention", "training", "sdpa/attention", "character/training"):
        table = (tmp_path / f"{name}.csv").read_text()
        assert ",cpu," in table


def test_an_unknown_part_is_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["scripts/gpu-check", str(tmp_path), "--device", "cpu"],
        cwd=Path(__file__).parents[1],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "PARTS": "sdap"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu-check: PARTS=sdap: no such part with --device cpu; parts: ")
