"""The dataset and model of a user's package, as the docs describe them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "own_dataset.md").read_text("utf-8")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory with the four files of the docs."""
    files = ("brackets.py", "my_configs/data/brackets.yaml", "bag.py", "my_configs/model/bag.yaml")
    texts = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL)
    for name, text in zip(files, texts, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def run(package: Path, verb: str, *more: str, given: str = "") -> str:
    """Runs a subcommand as the docs do; returns what it prints."""
    (words,) = re.findall(rf"attention-lab {verb} (.*)$", PAGE, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "attention_lab", verb, *words.split(), *more],
        cwd=package,
        env={"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "HOME": str(package)},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_on_own_files_train_and_predict_as_documented(package: Path) -> None:
    printed = run(package, "train", "logger=csv")
    assert "trivial baseline" in printed
    result = json.loads((package / "outputs" / "brackets" / "result.json").read_text())
    assert result["backends"] == {"self_attention": "fused"}
    assert result["test"]["accuracy"] >= result["trivial_baseline"]["accuracy"] - 0.02
    assert run(package, "predict", given="(())()\n") in ("yes\n", "no\n")
