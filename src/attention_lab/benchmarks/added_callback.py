"""Adding a callback to the Trainer of the runs that a benchmark trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from lightning import Callback, Trainer

from attention_lab.training.trainer import TrainerOptions


@contextmanager
def added_callback(callback: Callback) -> Iterator[None]:
    """In this context, the Trainers of all runs have the callback; it is called before others."""
    original = TrainerOptions.trainer

    def trainer(self: TrainerOptions, directory: Path, callbacks: Any, loggers: Any) -> Trainer:
        return original(self, directory, [callback, *callbacks], loggers)

    with mock.patch.object(TrainerOptions, "trainer", trainer):
        yield
