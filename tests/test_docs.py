"""What the docs say: their dialogues are run, their commands composed."""

import doctest
import re
import shlex
from itertools import product
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from attention_lab.config.validate import check
from tests.conftest import Compose

DOCS = Path(__file__).parents[1] / "docs"
PAGES_WITH_DIALOGUES = [DOCS / "attention.md", DOCS / "decoding.md"]
PAGES = [
    *PAGES_WITH_DIALOGUES,
    DOCS / "tasks.md",
    DOCS / "sweeps.md",
    DOCS / "slurm.md",
    DOCS / "devices.md",
    DOCS / "trainer.md",
    DOCS / "callbacks.md",
    DOCS / "logging.md",
    DOCS / "attention_summaries.md",
]
COMMANDS = [
    command
    for page in PAGES
    for command in re.findall(r"^attention-lab train (.*)$", page.read_text("utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("page", PAGES_WITH_DIALOGUES, ids=lambda page: page.stem)
def test_dialogues_give_what_they_show(page: Path) -> None:
    failures, attempted = doctest.testfile(str(page), module_relative=False)
    assert attempted >= 10
    assert failures == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_right(command: str, compose: Compose) -> None:
    words = [word for word in shlex.split(command, comments=True) if word != "-m"]
    for job in product(*map(_alternatives, words)):
        check(compose(*job))


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 14


def _alternatives(word: str) -> list[str]:
    """The values of a sweep, one by one: "seed=0,1" is "seed=0" and "seed=1"."""
    (override,) = OverridesParser.create().parse_overrides([word])
    if not override.is_sweep_override():
        return [word]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
