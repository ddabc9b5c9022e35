"""What the docs say: their sessions are run, their commands composed."""

import doctest
import re
import shlex
from itertools import product
from pathlib import Path

import pytest

from attention_lab.training.sections import check
from tests.conftest import Compose

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = re.findall(
    r"^attention-lab train (.*)$", (DOCS / "attention.md").read_text("utf-8"), re.M
)


def test_sessions_give_what_they_show() -> None:
    failures, attempted = doctest.testfile(str(DOCS / "attention.md"), module_relative=False)
    assert attempted > 10
    assert failures == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_right(command: str, compose: Compose) -> None:
    words = [word for word in shlex.split(command) if word != "-m"]
    values = [
        [f"{key}={value}" for value in all_of.split(",")] for key, all_of in map(_halves, words)
    ]
    for job in product(*values):
        check(compose(*job))


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6


def _halves(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value
