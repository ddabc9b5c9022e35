"""`attention-lab bench attention` on the CPU: its output and its files."""

import csv
from pathlib import Path

import pytest

from tests.cli.conftest import Command

SMALL = (
    "--lengths",
    "8,16",
    "--head-dim",
    "8",
    "--repeat",
    "1",
    "--backends",
    "eager,sdpa",
    "--peers",
    "none",
)


def test_a_small_benchmark(command: Command, tmp_path: Path) -> None:
    answer = command("bench", "attention", "--attention", "linear,l2", *SMALL)
    assert answer.code == 0, answer.err
    assert "forward + backward, ms by length" in answer.out
    assert "linear eager and torch SDPA, decode step:" in answer.out
    assert "GFLOP/s in matrix products" in answer.out
    folder = tmp_path / "outputs" / "bench"
    rows = list(csv.DictReader((folder / "attention.csv").open()))
    ours = {row["implementation"] for row in rows}
    assert ours >= {"torch SDPA", "torch SDPA math", "linear eager", "l2 eager", "l2 sdpa"}
    assert (folder / "attention.svg").read_text().startswith("<?xml")
    assert sorted(path.name for path in folder.iterdir()) == ["attention.csv", "attention.svg"]


def test_an_interrupted_benchmark_writes_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("attention_lab.benchmarks.attention.interleaved", interrupt)
    answer = command("bench", "attention", "--attention", "linear", *SMALL)
    assert (answer.code, answer.err) == (1, "attention-lab: interrupted\n")
    assert list(tmp_path.iterdir()) == []
