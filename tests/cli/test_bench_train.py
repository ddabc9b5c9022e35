"""`attention-lab bench train` on the CPU: its output, its file, and wrong arguments."""

import csv
from pathlib import Path

import pytest

from attention_lab.benchmarks import training
from tests.cli.conftest import Command

TINY = ("data=reverse", "data.batch_size=8", "data.examples=400", "data.evaluation_examples=8")


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ("model=encoder_decoder", "attention=multi_head", "model.d_model=16", *TINY)
    monkeypatch.setitem(training.TRAININGS, "encoder_decoder", overrides)


@pytest.mark.usefixtures("_tiny")
def test_a_small_benchmark(command: Command, tmp_path: Path) -> None:
    answer = command("bench", "train", "--models", "encoder_decoder", "--steps", "17")
    assert answer.code == 0, answer.err
    assert "tokens/s [quartiles]" in answer.out
    assert "validation" not in answer.out  # the run itself prints nothing
    (file,) = (tmp_path / "outputs" / "bench").iterdir()
    rows = {row["name"]: row for row in csv.DictReader(file.open())}
    assert list(rows) == [
        "attention-lab train",
        "same model, plain loop",
        "nn.Transformer",
        "x-transformers",
    ]
    for row in rows.values():
        assert float(row["tokens_per_second"]) > 0
    ours, plain = rows["attention-lab train"], rows["same model, plain loop"]
    assert ours["parameters"] == plain["parameters"]
    assert float(ours["run_relative_to_it"]) == 1
    assert 0 < float(plain["loading_share"]) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--models caracter", "--models: there is no 'caracter'; did you mean character?"),
        ("--steps 8", "--steps 8: must be above 8, a turn"),
        ("--steps 0", "argument --steps: '0' must be a whole number of at least 1"),
        ("--device cuda", "--device cuda: torch finds no CUDA device; use --device cpu"),
        ("--output file/inside", "--output file/inside: "),
    ],
)
def test_wrong_arguments_are_refused(
    command: Command, tmp_path: Path, arguments: str, message: str
) -> None:
    (tmp_path / "file").touch()
    answer = command("bench", "train", *arguments.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"attention-lab: bench train: {message}")
    assert answer.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
