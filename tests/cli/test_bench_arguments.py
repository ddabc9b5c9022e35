"""Wrong arguments of `attention-lab bench`, and its help."""

from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "attention --attention aditive",
            "--attention: there is no 'aditive'; did you mean additive?",
        ),
        ("attention --backends fuse", "--backends: there is no 'fuse'; did you mean fused?"),
        (
            "attention --peers keras",
            "--peers: there is no 'keras'; available: flex, layers, additive, lin",
        ),
        ("attention --lengths 0", "argument --lengths: '0' must be a whole number of at least 1"),
        ("attention --lengths 8,,9", "argument --lengths: '' must be a whole number of at least 1"),
        (
            "attention --batch-size -1",
            "argument --batch-size: '-1' must be a whole number of at least 1",
        ),
        ("attention --device cuda", "--device cuda: torch finds no CUDA device; use --device cpu"),
        ("attention --precision 32", "argument --precision: invalid choice: '32'"),
        (
            "attention --time-limit nan",
            "argument --time-limit: 'nan' must be a number of seconds above 0",
        ),
        ("attention --repeat 1.5", "argument --repeat: '1.5' must be a whole number of at least 1"),
        ("attention --output file/inside", "--output file/inside: "),
        (
            "attention --lengths 99999999999",
            "length 99,999,999,999 needs more than 65,536 GiB of memory",
        ),
        ("attention --leng 8,16 --seed 1", "unrecognized arguments: --seed 1"),
        ("train --models caracter", "--models: there is no 'caracter'; did you mean character?"),
        ("train --steps 8", "--steps 8: must be above 8, a turn"),
        ("train --steps 0", "argument --steps: '0' must be a whole number of at least 1"),
        ("train --device cuda", "--device cuda: torch finds no CUDA device; use --device cpu"),
        ("train --output file/inside", "--output file/inside: "),
    ],
)
def test_wrong_arguments_are_refused(
    command: Command, tmp_path: Path, arguments: str, message: str
) -> None:
    (tmp_path / "file").touch()
    benchmark, *others = arguments.split()
    answer = command("bench", benchmark, *others)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"attention-lab: bench {benchmark}: {message}")
    assert answer.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_benchmark_names_the_nearest(command: Command) -> None:
    answer = command("bench", "atention")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "attention-lab: bench: no such benchmark: 'atention'; did you mean attention?\n"
    )
