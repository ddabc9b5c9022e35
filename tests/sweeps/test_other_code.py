"""Resuming a sweep after the code has changed: the runs of other code are named first."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from attention_lab.sweeps.sweep import Sweep
from attention_lab.tracking import code_version, run_directory
from attention_lab.tracking.code_version import code_changes
from attention_lab.tracking.run_directory import RunRecord
from tests.conftest import Compose

REVISION = "0" * 40


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The code of this process."""
    versions = {"attention-lab": "0.3.1", "torch": "2.13.0+cpu", "lightning": "2.6.6", "wandb": "1"}
    code = {"git_revision": REVISION, "versions": versions}
    for module in (code_version, run_directory):
        monkeypatch.setattr(module, "code_version", lambda: code)
    return code


@pytest.mark.parametrize(
    ("then", "changes"),
    [
        ({}, []),
        ({"versions": {"torch": "2.11.0", "lightning": "2.7", "wandb": "2"}}, []),
        ({"versions": {"torch": "1.13.1"}}, ["torch 1.13.1 then, 2.13.0+cpu now"]),
        ({"versions": {"lightning": "3.0.0a"}}, ["lightning 3.0.0a then, 2.6.6 now"]),
        ({"versions": {"attention-lab": "0.3.9"}}, []),
        ({"versions": {"attention-lab": "0.2.9"}}, ["attention-lab 0.2.9 then, 0.3.1 now"]),
        ({"git_revision": "1" * 40}, ["git revision 1111111111 then, 0000000000 now"]),
        (
            {"git_revision": f"{REVISION}-dirty-12345678"},
            ["git revision 0000000000-dirty-12345678 then, 0000000000 now"],
        ),
        ({"git_revision": None, "versions": None}, []),
        ({"versions": ["torch"], "git_revision": "\x1b[31mred"}, ["git revision [31mred then,"]),
    ],
)
def test_revisions_and_major_versions_are_compared(
    then: Mapping[str, Any], changes: list[str]
) -> None:
    found = code_changes(then)
    assert len(found) == len(changes)
    assert all(each.startswith(change) for each, change in zip(found, changes, strict=True))


def test_runs_of_other_code_are_named_before_anything_starts(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: dict[str, Any]
) -> None:
    said: list[str] = []

    def run(jobs: Sequence[Any], _: Any) -> None:
        said.append(capsys.readouterr().err)
        for job in jobs:
            record = RunRecord(job)
            record.finish({"monitor": "loss", "mode": "min", "validation": {"loss": 1.0}})
            record.close()

    def composed(overrides: Sequence[str]) -> dict[str, Any]:
        return compose("data=digits", "trainer=cpu", *overrides)

    options = {"retry": [], "tune": None, "grid": None, "seeds": None}
    sweep = Sweep(tmp_path / "sweep", composed, options, run, lambda jobs: None)
    earlier = sweep.run([["seed=0"], ["seed=1"]], ())
    later = sweep.run([["seed=0"], ["seed=2"]], ())
    assert said == ["", ""]
    code["git_revision"] = "1" * 40
    sweep.run([["seed=0"], ["seed=1"], ["seed=2"], ["seed=3"]], ())
    assert said[2].startswith(
        "3 of 4 runs were started with other code (git revision 0000000000 then, 1111111111 now): "
    )
    assert all(path.name in said[2] for path in {*earlier, *later})
    assert said[2].count("\n") == 1


def test_each_uncommitted_edit_is_another_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "src" / "attention_lab" / "tracking" / "code_version.py"
    file.parent.mkdir(parents=True)
    file.write_text("committed")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(code_version, "__file__", str(file))
    revisions = []
    index = (tmp_path / ".git" / "index").read_bytes()
    for content in ("committed", "edited", "edited again", "edited"):
        file.write_text(content)
        os.utime(file, (1, 1))  # git would update the time in the index if it locked it
        revisions.append(code_version._git_revision())
    assert (tmp_path / ".git" / "index").read_bytes() == index  # it was not locked
    clean, edited, again, same = revisions
    assert clean is not None
    assert len(clean) == 40
    assert edited is not None
    assert edited.startswith(f"{clean}-dirty-")
    assert edited == same != again


def test_the_code_version_of_this_process_is_plain_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    now = code_version.code_version()
    assert json.loads(json.dumps(now)) == now
    assert code_changes(now) == []
