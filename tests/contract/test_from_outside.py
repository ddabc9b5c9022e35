"""The documented way to a mechanism of one's own, from a package that is not ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "own_mechanism.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory with the two files of the docs, as they stand there."""
    code, node = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "cauchy.py").write_text(code, "utf-8")
    (tmp_path / "my_configs" / "attention").mkdir(parents=True)
    (tmp_path / "my_configs" / "attention" / "cauchy.yaml").write_text(node, "utf-8")
    return tmp_path


def contract(package: Path) -> subprocess.CompletedProcess[str]:
    """Runs the last command of the docs there."""
    (line,) = re.findall(r"python (-m pytest .*)", PAGE.read_text("utf-8"))
    return subprocess.run(
        [sys.executable, *line.split(), "-q", "-p", "no:cacheprovider"],
        cwd=package,
        env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_about_forty_lines() -> None:
    code, _ = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 50


def test_it_passes_the_contract(package: Path) -> None:
    done = contract(package)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 80
    assert "failed" not in done.stdout


def test_the_contract_refuses_it_once_it_is_broken(package: Path) -> None:
    code = package / "cauchy.py"
    code.write_text(code.read_text("utf-8").replace("query.device, start)", "query.device)"))
    done = contract(package)
    assert done.returncode == 1
    failed = set(re.findall(r"FAILED \S*::(\w+)", done.stdout))
    assert failed == {"test_decoding"}, done.stdout  # it forgot where its queries stand
