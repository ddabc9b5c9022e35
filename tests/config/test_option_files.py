"""Damaged YAML files of a user's options are errors of one line with the file."""

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from attention_lab.config.compose import WrongCommand, add_score_mechanisms, config_directory
from attention_lab.config.hydra_loader import use_own_loader

NOT_KEYS = "must hold keys and values, not "


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\ta: 1", ", line 1: found character '\\t' that cannot start any token"),
        (b"a: 1\na: 2", ", line 2: found duplicate key a"),
        (b"a: \x00", ": YAML forbids its character 4, U+0000"),
        (b"a: 1\n---\nb: 2", ", line 2: but found another document"),
        (b"a: !x 1", ", line 1: could not determine a constructor for the tag '!x'"),
        (b"a: b: c", ", line 1: mapping values are not allowed here"),
        (b"3", f": {NOT_KEYS}one value"),
        (b"[1]", f": {NOT_KEYS}a list"),
        (b"1: 2", ": the key 1 is not text; put it in quotes"),
        (b"a: {on: {yes: 1}}", ": the key True in a is not text; put it in quotes"),
        (b"a: \xff", ": byte 4 is not UTF-8"),
        (b"a: " + b"[" * 1000, ": is nested too deeply, or contains itself"),
        (b"a: &x [*x]", ": is nested too deeply, or contains itself"),
        (b"null: 1", ": a key is not text; put it in quotes"),
        (b"{a: 1}: 2", ", line 1: a key is not text; put it in quotes"),
        (b"defaults: [[]]", ": an entry of its defaults list must be NAME or GROUP: NAME"),
        (b"a: ${", ": "),
        (b"a: " + b"9" * 5000, ": a number has more than 4300 digits"),
    ],
)
def test_a_damaged_file_is_named(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(WrongCommand) as caught:
        _load("scheduler=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert str(caught.value).startswith(f"{file}{problem}")
    assert "\n" not in str(caught.value)


def test_an_option_that_names_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "mine.yaml").write_text("defaults: [mine]")
    with pytest.raises(WrongCommand, match="names itself in its defaults list"):
        _load("scheduler=mine", f"hydra.searchpath=[file://{tmp_path}]")


def _load(*overrides: str) -> None:
    add_score_mechanisms()
    with (
        use_own_loader(),
        initialize_config_dir(str(config_directory().resolve()), version_base="1.3"),
    ):
        loader = GlobalHydra.instance().config_loader()
        loader.load_configuration("train", list(overrides), RunMode.RUN)
