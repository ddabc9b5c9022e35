"""Runs from composed configs: resolved, then built or trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.tracking.run_config import resolve
from attention_lab.training import build as builder
from attention_lab.training import run
from attention_lab.training.distributed import launch as launcher

Config = Mapping[str, Any]


class Stopped(RuntimeError):
    """An exception that names the status of the run that it ends."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.run_status = status


def spec(config: Config, directory: Path, overrides: Sequence[str] = ()) -> RunSpec:
    """The run of a composed config."""
    return RunSpec(resolve(config), directory, overrides)


def unchecked(config: Config, directory: Path, overrides: Sequence[str] = ()) -> RunSpec:
    """A run whose config is recorded, and never built."""
    return RunSpec(RunConfig(config), directory, overrides)


def train(config: Config, directory: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train the run of a composed config; the result."""
    return cast(dict[str, Any], run.train(spec(config, directory, overrides)))


def launch(config: Config, directory: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Launch the run of a composed config; the result."""
    return cast(dict[str, Any], launcher.launch(spec(config, directory, overrides)))


def build(config: Config, data: SplitDataModule[Any] | None = None) -> builder.BuiltRun:
    """Build the run of a composed config."""
    return builder.build(resolve(config), data)


def load_data(config: Config) -> Any:
    """The dataset of a composed config."""
    return builder.load_data(resolve(config))
