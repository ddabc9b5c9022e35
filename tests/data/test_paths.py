"""Paths of the user's files in options and messages."""

from pathlib import Path

import pytest

from attention_lab.data.files.paths import required, shown


def test_messages_show_paths_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below, beside = tmp_path / "here" / "a" / "own.txt", tmp_path / "hereafter" / "own.txt"
    below.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert shown(below) == shown("a/own.txt") == "a/own.txt"
    assert shown(str(beside)) == str(beside)
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    assert shown("~/a/own.txt") == "a/own.txt"


@pytest.mark.parametrize("paths", [None, "", []])
def test_a_required_path_must_be_given(paths: str | list[str] | None) -> None:
    with pytest.raises(
        ValueError, match=r"^data\.test is not set; use data\.test=FILE, a file of lines$"
    ):
        required("test", paths, "a file of lines")


def test_required_returns_the_path() -> None:
    assert required("path", ["a", "b"], "files") == ["a", "b"]
