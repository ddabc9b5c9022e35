"""`attention-lab evaluate --ablate-heads`."""

import csv
import shutil
from pathlib import Path
from statistics import fmean

import pytest
from PIL import Image

from attention_lab.attention import AttentionLayer
from attention_lab.cli import ablate_heads
from attention_lab.training import head_ablation
from attention_lab.training.evaluation import restored
from attention_lab.training.head_ablation import parts_scorer
from tests.cli.conftest import Command
from tests.conftest import FinishedRun

LAYERS = ["encoder.0.self_attention", "decoder.0.self_attention", "decoder.0.cross_attention"]


@pytest.fixture
def run(words_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, to write to; three parts are faster to evaluate than ten."""
    monkeypatch.setattr(head_ablation, "PARTS", 3)
    return shutil.copytree(words_run.directory, tmp_path / "words")


def test_each_head_has_a_line_and_a_row(command: Command, run: Path) -> None:
    answer = command("evaluate", str(run), "--ablate-heads", "--split", "validation")
    assert answer.code == 0, answer.err
    _, whole, *heads, note, saved = answer.out.splitlines()
    assert whole.startswith("all heads")
    assert [line.split()[:2] for line in heads] == [[layer, "0"] for layer in LAYERS]
    assert note.startswith("validation: 40 examples in 3 parts;")
    file = run / "evaluations" / "validation,heads.csv"
    assert saved == f"saved to {file} and validation,heads.png"
    with file.open() as table:
        rows = list(csv.DictReader(table))
    assert [row["layer"] for row in rows] == ["", *LAYERS]
    parts = parts_scorer(restored(run), "validation", "per")()
    assert float(rows[0]["per"]) == pytest.approx(fmean(parts.values()))
    for row in rows[1:]:
        change = float(row["per"]) - float(rows[0]["per"])
        assert float(row["difference"]) == pytest.approx(change, abs=1e-6)
    with Image.open(file.with_suffix(".png")) as picture:
        picture.verify()


def test_a_model_without_heads_has_one_line(
    command: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_layers(model: object) -> dict[str, AttentionLayer]:
        return {}

    monkeypatch.setattr("attention_lab.attention.attention_layers", without_layers)
    answer = command("evaluate", str(run), "--ablate-heads")
    assert (answer.code, answer.out) == (0, f"{run} has no attention heads\n")


def test_a_run_that_cannot_be_written_to_is_evaluated(
    command: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ablate_heads, "make_folder", fail)
    answer = command("evaluate", str(run), "--ablate-heads")
    assert answer.code == 0
    assert answer.err.endswith("evaluations cannot be written: Permission denied\n")
