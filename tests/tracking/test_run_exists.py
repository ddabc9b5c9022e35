"""Directories that hold a run are refused; directories that hold none are used."""

from pathlib import Path
from typing import Any

import pytest

from attention_lab.tracking.run_directory import RunExists, RunRecord, read_config, write_config
from tests.runs import unchecked
from tests.tracking.run_files import CONFIG


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_finished_run_is_not_overwritten(begun: Path) -> None:
    record = RunRecord(unchecked(CONFIG, begun))
    record.finish({})
    record.close()
    before = files(begun)
    with pytest.raises(RunExists, match="holds a run that has finished; name another directory"):
        RunRecord(unchecked(CONFIG, begun))
    assert files(begun) == before


@pytest.mark.parametrize(
    ("other", "different"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"trainer": {"max_epochs": 2.0}}, "trainer.max_epochs is 2 there, 2.0 here"),
        ({"trainer": {}}, "trainer is not there, {} here; trainer.max_epochs is 2 there, not here"),
        ({"a": 1, "b": "x", "c": None, "d": 4}, "a is not there, 1 here; .*; and 1 more"),
    ],
)
def test_a_directory_with_another_run_names_the_differences(
    other: dict[str, Any], different: str, begun: Path
) -> None:
    before = files(begun)
    with pytest.raises(
        RunExists, match=f"holds another run \\({different}\\); name another"
    ) as caught:
        RunRecord(unchecked(CONFIG | other, begun))
    assert "\n" not in str(caught.value)
    assert files(begun) == before


def test_a_run_with_an_unreadable_config_is_not_overwritten(begun: Path) -> None:
    (begun / "config.yaml").write_text("{")
    with pytest.raises(RunExists, match=r"config\.yaml is not valid YAML.*; name another"):
        RunRecord(unchecked(CONFIG, begun))


def test_a_job_that_has_not_started_is_no_run(tmp_path: Path) -> None:
    write_config(tmp_path, CONFIG | {"seed": 1})
    (tmp_path / "log.txt").write_text("")
    assert not RunRecord(unchecked(CONFIG, tmp_path)).is_resumed
    assert read_config(tmp_path) == CONFIG


def test_a_directory_with_other_files_can_hold_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunRecord(unchecked(CONFIG, tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"
