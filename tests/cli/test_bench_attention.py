"""`attention-lab bench attention` on the CPU: its output, its files, and wrong arguments."""

import csv
import time
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--attention aditive", "--attention: there is no 'aditive'; did you mean additive?"),
        ("--backends fuse", "--backends: there is no 'fuse'; did you mean fused?"),
        ("--peers keras", "--peers: there is no 'keras'; available: flex, layers, additive, lin"),
        ("--lengths 0", "argument --lengths: '0' must be a whole number of at least 1"),
        ("--lengths 8,,9", "argument --lengths: '' must be a whole number of at least 1"),
        ("--batch-size -1", "argument --batch-size: '-1' must be a whole number of at least 1"),
        ("--device cuda", "--device cuda: torch finds no CUDA device; use --device cpu"),
        ("--precision 32", "argument --precision: invalid choice: '32'"),
        ("--time-limit nan", "argument --time-limit: 'nan' must be a number of seconds above 0"),
        ("--repeat 1.5", "argument --repeat: '1.5' must be a whole number of at least 1"),
        ("--output file/inside", "--output file/inside: "),
        ("--lengths 99999999999", "length 99,999,999,999 needs more than 65,536 GiB of memory"),
        ("--leng 8,16 --seed 1", "unrecognized arguments: --seed 1"),
    ],
)
def test_wrong_arguments_are_refused(
    command: Command, tmp_path: Path, arguments: str, message: str
) -> None:
    (tmp_path / "file").touch()
    answer = command("bench", "attention", *arguments.split())
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith(f"attention-lab: bench attention: {message}")
    assert answer.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_benchmark_names_the_nearest(command: Command) -> None:
    answer = command("bench", "atention")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "attention-lab: bench: no such benchmark: 'atention'; did you mean attention?\n"
    )


def test_help_needs_no_torch(command: Command) -> None:
    started = time.perf_counter()
    assert "attention" in command("bench", "--help").out
    assert time.perf_counter() - started < 1


def test_an_interrupted_benchmark_writes_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("attention_lab.benchmarks.attention.interleaved", interrupt)
    answer = command("bench", "attention", "--attention", "linear", *SMALL)
    assert (answer.code, answer.err) == (1, "attention-lab: interrupted\n")
    assert list(tmp_path.iterdir()) == []
