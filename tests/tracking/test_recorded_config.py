"""config.yaml of a run directory."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from attention_lab.tracking.run_directory import RunRecord, read_config, write_config
from tests.conftest import FinishedRun
from tests.runs import unchecked
from tests.tracking.run_files import CONFIG


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = {"seed": 3, "b": {"name": "Übung", "rates": [1e-3, 2], "mask": None}, "a": True}
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config
    assert list(read_config(tmp_path)) == ["seed", "b", "a"]


def test_a_config_file_says_how_to_run_it_again(tmp_path: Path) -> None:
    write_config(tmp_path, {"seed": 3})
    text = (tmp_path / "config.yaml").read_text("utf-8")
    assert "attention-lab train --from RUN_DIRECTORY" in text
    assert yaml.safe_load(text) == {"schema_version": 1, "seed": 3}


def test_a_run_keeps_its_config(words_run: FinishedRun) -> None:
    assert read_config(words_run.directory) == words_run.config


@pytest.mark.parametrize("earlier", [None, CONFIG, CONFIG | {"seed": 5}, "cut off"])
def test_a_start_writes_only_what_a_sweep_has_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: Any
) -> None:
    """A shared file system is slow at flushing files to disk."""
    if isinstance(earlier, dict):
        write_config(tmp_path, earlier)
    elif earlier is not None:
        (tmp_path / "config.yaml").write_text(earlier)
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    RunRecord(unchecked(CONFIG, tmp_path)).close()
    assert len(flushed) == (1 if earlier is CONFIG else 2)  # status.json, and config.yaml
    assert read_config(tmp_path) == CONFIG
