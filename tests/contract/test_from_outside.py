"""The documented way to a mechanism of one's own, from a package that is not ours."""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from tests.cli.conftest import TINY

PAGE = Path(__file__).parents[2] / "docs" / "own_mechanism.md"


#: The code blocks of the page.
CODE, CONSTRUCTOR, NODE, COMMANDS = re.findall(
    r"^```\w+\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory with the two files of the docs."""
    (tmp_path / "cauchy.py").write_text(CODE, "utf-8")
    (tmp_path / "my_configs" / "attention").mkdir(parents=True)
    (tmp_path / "my_configs" / "attention" / "cauchy.yaml").write_text(NODE, "utf-8")
    return tmp_path


def run(package: Path, line: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the docs there, by how it begins."""
    (words,) = re.findall(rf"^{line}(.*)$", COMMANDS, re.MULTILINE)
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
    assert len(CODE.splitlines()) <= 50


def test_all_code_is_in_the_tested_blocks() -> None:
    page = PAGE.read_text("utf-8")
    assert re.findall(r"^```\w+$", page, re.MULTILINE) == [
        "```python",
        "```python",
        "```yaml",
        "```bash",
    ]
    prose = re.sub(r"^```\w+$.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"^ {4}", prose, re.MULTILINE), "an indented code block is not tested"
    tested = ("attention-lab list", "attention-lab train", "python -m pytest")
    for line, start in zip(COMMANDS.splitlines(), tested, strict=True):
        assert line.startswith(start)


def test_it_is_listed_with_its_formula(package: Path) -> None:
    done = run(package, "attention-lab list")
    assert done.returncode == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("  formula "))
    assert "κ / Σ κ, κ = 1 / (1 + |q − k|² / √d)" in row


def test_a_broken_one_is_listed_with_what_is_wrong(package: Path) -> None:
    node = package / "my_configs" / "attention" / "cauchy.yaml"
    node.write_text(node.read_text("utf-8").replace("num_heads: 1", "num_heads: 0"), "utf-8")
    done = run(package, "attention-lab list")
    assert "cauchy" in done.stdout
    assert "cannot be used  num_heads must be at least 1, got 0" in done.stdout


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


def test_it_takes_the_constructor(package: Path) -> None:
    """The documented constructor adds an argument to the documented class, and it has an effect."""
    code = package / "cauchy.py"
    imports = "from typing import Unpack\nfrom attention_lab.attention import LayerOptions\n"
    constructor = indent(CONSTRUCTOR, "    ")
    text = CODE.replace("    def attend", f"{constructor}\n    def attend")
    assert "/ inverse\n" in text
    text = text.replace("/ inverse\n", "/ inverse\n        kernel = kernel**self.power\n")
    code.write_text(imports + text, "utf-8")
    node = package / "my_configs" / "attention" / "cauchy.yaml"
    node.write_text(f"{NODE}power: 2.0\n", "utf-8")
    done = run(package, "python -m pytest", *QUIETLY, "-k", "every_argument or decoding")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout  # decoding, compiled decoding and every argument


def test_the_contract_refuses_it_once_it_is_broken(package: Path) -> None:
    code = package / "cauchy.py"
    forgetful = "AttentionInputs(inputs.query, inputs.key, inputs.value, inputs.mask).visible()"
    code.write_text(code.read_text("utf-8").replace("inputs.visible()", forgetful))
    done = run(package, "python -m pytest", *QUIETLY, "-m", "quick")
    assert done.returncode == 1
    failed = set(re.findall(r"FAILED \S*::(\w+)", done.stdout))
    assert failed == {"test_decoding"}, done.stdout  # it forgot where its queries stand
