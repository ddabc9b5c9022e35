"""The call stack from the command to ``Trainer.fit`` has few functions of this package."""

import traceback
from pathlib import Path

import pytest
from lightning import Trainer

import attention_lab
from tests.cli.conftest import Command, command  # noqa: F401
from tests.conftest import TINY_DIGITS

PACKAGE = str(Path(attention_lab.__file__).parent)


def test_at_most_six_frames_from_the_command_to_the_trainer(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stacks: list[list[str]] = []
    fit = Trainer.fit

    def traced(*args: object, **named: object) -> None:
        frames = [frame for frame in traceback.extract_stack() if PACKAGE in frame.filename]
        stacks.append([f"{Path(frame.filename).stem}.{frame.name}" for frame in frames])
        fit(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "fit", traced)
    answer = command("train", *TINY_DIGITS, "trainer.max_steps=1")
    assert answer.code == 0, answer.err
    (stack,) = stacks
    assert len(stack) <= 6, stack
