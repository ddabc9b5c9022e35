"""The documented way to a mechanism of one's own, from a package that is not ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import TINY

PAGE = Path(__file__).parents[2] / "docs" / "own_mechanism.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory with the two files of the docs, as they stand there."""
    code, node = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "cauchy.py").write_text(code, "utf-8")
    (tmp_path / "my_configs" / "attention").mkdir(parents=True)
    (tmp_path / "my_configs" / "attention" / "cauchy.yaml").write_text(node, "utf-8")
    return tmp_path


def run(package: Path, line: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the docs there, by how it begins."""
    (words,) = re.findall(rf"^{line}(.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    command = line.replace("python", "").replace("attention-lab", "-m attention_lab")
    return subprocess.run(
        [sys.executable, *command.split(), *words.split(), *more],
        cwd=package,
        env={"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


QUIETLY = ("-q", "-p", "no:cacheprovider")


def test_it_is_about_forty_lines() -> None:
    code, _ = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 50


def test_it_is_listed_with_the_others(package: Path) -> None:
    done = run(package, "attention-lab list")
    assert done.returncode == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("  cauchy "))
    assert "κ / Σ κ, κ = 1 / (1 + |q − k|² / √d)" in row


def test_a_broken_one_does_not_hide_the_others(package: Path) -> None:
    node = package / "my_configs" / "attention" / "cauchy.yaml"
    node.write_text(node.read_text("utf-8").replace("num_heads: 1", "num_heads: 0"), "utf-8")
    done = run(package, "attention-lab list")
    assert "cauchy" in done.stdout
    assert "cannot be used: num_heads must be at least 1, got 0" in done.stdout
    assert "Bahdanau" in done.stdout


def test_it_trains(package: Path) -> None:
    done = run(package, "attention-lab train", *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert (package / "run" / "result.json").is_file()


def test_it_passes_the_contract(package: Path) -> None:
    done = run(package, "python -m pytest", *QUIETLY)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 80
    assert "failed" not in done.stdout


def test_the_contract_refuses_it_once_it_is_broken(package: Path) -> None:
    code = package / "cauchy.py"
    forgetful = "AttentionInputs(inputs.query, inputs.key, inputs.value, inputs.mask).visible()"
    code.write_text(code.read_text("utf-8").replace("inputs.visible()", forgetful))
    done = run(package, "python -m pytest", *QUIETLY, "-m", "quick")
    assert done.returncode == 1
    failed = set(re.findall(r"FAILED \S*::(\w+)", done.stdout))
    assert failed == {"test_decoding"}, done.stdout  # it forgot where its queries stand
