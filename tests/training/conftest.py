"""Reading what a run left behind."""

import csv
import errno
import json
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_lab.training.run import train


def read_status(directory: Path) -> dict[str, Any]:
    """A run's ``status.json``."""
    status: dict[str, Any] = json.loads((directory / "status.json").read_text())
    return status


def read_metrics(directory: Path, column: str) -> list[tuple[int, float]]:
    """The steps and values of one column of ``metrics.csv``, where it has values."""
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(row["step"]), float(row[column])) for row in rows if row[column]]


def read_weights(directory: Path, checkpoint: str = "last") -> dict[str, Tensor]:
    """The weights in one of a run's checkpoints."""
    path = directory / "checkpoints" / f"{checkpoint}.ckpt"
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return weights


def same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


Train = Callable[[dict[str, Any]], Path]


@pytest.fixture
def trained(tmp_path: Path) -> Train:
    """Trains a config in a directory of its own, which it returns."""

    def run(config: dict[str, Any]) -> Path:
        directory = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        train(config, directory, [])
        return directory

    return run


Refuse = Callable[[Container[int]], None]


@pytest.fixture
def refuse_to_save(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Leaves no room for the checkpoints of some steps."""
    save = torch.save

    def refuse(steps: Container[int]) -> None:
        def save_if_there_is_room(checkpoint: dict[str, Any], file: Any) -> None:
            if checkpoint["global_step"] in steps:
                raise OSError(errno.ENOSPC, "No space left on device")
            save(checkpoint, file)

        monkeypatch.setattr(torch, "save", save_if_there_is_room)

    return refuse
