"""`attention-lab bench train` on the CPU: its output and its file."""

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
