"""Building a run from its config: everything is checked, and nothing is written."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import seed_everything
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from torch import nn

from attention_lab.attention import BACKENDS, attention_layers
from attention_lab.config.components import (
    Config,
    ConfigError,
    NodeError,
    component_class,
    create,
    path_of,
)
from attention_lab.config.environment_variables import VARIABLE, with_environment
from attention_lab.config.validate import check
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.files.file_hashes import sha256
from attention_lab.data.files.paths import shown
from attention_lab.models.protocol import Network
from attention_lab.tracking.wandb_logger import LoggerOptions
from attention_lab.training.optim import OptimizerOptions
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.trainer import TrainerOptions


@dataclass(frozen=True)
class Run:
    """The parts of a run, built and ready to train."""

    data: SplitDataModule[Any]
    task: AttentionTask
    trainer_options: TrainerOptions
    logger_options: LoggerOptions


def load_data(config: Config) -> SplitDataModule[Any]:
    """The dataset of a config, loaded and split.

    Raises:
        ConfigError: if its options cannot work, or a file is not the one that the config records.
    """
    _check_kinds_of_files(config)
    _check_unchanged(config)
    with config_errors(config):
        data: SplitDataModule[Any] = create(config["data"], (SplitDataModule,))
        data.setup()
        return data


def build(config: Config, data: SplitDataModule[Any] | None = None) -> Run:
    """Build a run from its resolved config; nothing is written.

    Args:
        config: the config.
        data: the config's dataset if it is at hand already.

    Raises:
        ConfigError: if the config cannot work, with one line that says why.
    """
    check(config)
    data = load_data(config) if data is None else data
    with config_errors(config):
        optimizer = create(config["optimizer"], (OptimizerOptions,))
        trainer_options = create(config["trainer"], (TrainerOptions,))
        seed_everything(config["seed"], workers=True, verbose=False)
        sizes = data.model_arguments()
        _check_sizes(config, sizes)
        model = create(config["model"], (Network,), **sizes)
        _check_backends(model, "cuda" if _trains_on_gpu(trainer_options) else "cpu")
        parts = {"model": model, "data": data, "optimizer": optimizer}
        task = create(config["task"], (AttentionTask,), **parts)
        _check_lengths(model, data, getattr(task, "max_length", 0))
        return Run(data, task, trainer_options, create(config["logger"], (LoggerOptions,)))


def check_logger(config: Config) -> None:
    """Raise ConfigError if the logger's options or the WANDB_ variables are invalid."""
    with config_errors(config):
        options: LoggerOptions = create(with_environment(config)["logger"], (LoggerOptions,))
        options.check()


@contextmanager
def config_errors(config: Config) -> Iterator[None]:
    """What a constructor finds wrong with its arguments is wrong with the config."""
    try:
        yield
    except NodeError as error:
        raise ConfigError(f"{path_of(error.node, config)}: {error}") from error
    except (ValueError, ImportError) as error:
        raise ConfigError(str(error)) from error


def from_anywhere(config: Config) -> Config:
    """The config with the user's data files by absolute paths, and with their content's SHA-256.

    So it works from any directory, is recorded, and is the same run as long as the files hold the
    same. A file that cannot be read is left to the dataset, which says what is wrong with it.
    """

    def absolute(paths: Any) -> Any:
        if isinstance(paths, str) and paths and not VARIABLE.search(paths):
            return str(Path(paths).expanduser().resolve())
        return [absolute(path) for path in paths] if isinstance(paths, list) else paths

    data, recorded = config["data"], config.get("data_files", {})
    kind: type[Any] = component_class("data", data["_target_"], (SplitDataModule,))
    found = {name: absolute(data[name]) for name in kind.files if name in data}
    hashes = {
        name: recorded.get(name) or _hashes(paths)
        for name, paths in with_environment(found).items()
        if paths
    }
    files = {name: each for name, each in hashes.items() if each}
    others = {key: value for key, value in config.items() if key != "data_files"}
    return others | {"data": {**data, **found}} | ({"data_files": files} if files else {})


def data_files(config: Config) -> dict[str, str]:
    """The SHA-256 of each data file that a config records, by its path."""
    return {
        path: digest
        for name, hashes in config.get("data_files", {}).items()
        for path, digest in zip(_listed(config["data"].get(name)), _listed(hashes), strict=False)
    }


def _check_kinds_of_files(config: Config) -> None:
    """Raise ConfigError for a FIFO or a device, which may block or never end."""
    kind: type[Any] = component_class("data", config["data"]["_target_"], (SplitDataModule,))
    for name in kind.files:
        for path in map(Path, filter(None, _listed(config["data"].get(name)))):
            if path.expanduser().is_fifo() or path.expanduser().is_char_device():
                raise ConfigError(
                    f"data.{name}: {shown(path)} is not a regular file; copy its content into one"
                )


def _check_unchanged(config: Config) -> None:
    """Raise ConfigError if a data file does not hold what it held when the config was recorded."""
    for path, known in data_files(config).items():
        now = _hashes(path)
        if now not in (known, None):
            raise ConfigError(
                f"{shown(path)} has changed since this run's config was recorded (SHA-256 "
                f"{known[:8]}…, now {now[:8]}…): restore it, or train on it as a new run"
            )


def _hashes(paths: Any) -> Any:
    """The SHA-256 of a file, or of each in a list; None where one cannot be read."""
    if isinstance(paths, str):
        try:
            return sha256(Path(paths).expanduser())
        except OSError:
            return None
    each = [_hashes(path) for path in paths]
    return each if all(each) else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _trains_on_gpu(options: TrainerOptions) -> bool:
    return options.accelerator == "gpu" or (options.accelerator == "auto" and has_gpu())


def _check_sizes(config: Config, sizes: dict[str, int]) -> None:
    """Raise ValueError if the model cannot read such data."""
    model = component_class("model", config["model"]["_target_"], (Network,))
    for name in sizes:
        if name not in inspect.signature(model).parameters:
            data = config["data"]["_target_"].rpartition(".")[2]
            raise ValueError(
                f"model: {model.__name__} has no {name}, of which {data} is made; "
                "`attention-lab list model` shows the others"
            )


def _check_backends(model: nn.Module, device: str) -> None:
    """Raise ValueError if a layer's backend cannot train here."""
    for name, layer in attention_layers(model).items():
        backend = layer.backend
        if device not in backend.trains_on:
            works = " or ".join(other.name for other in BACKENDS if device in other.trains_on)
            raise ValueError(
                f"{name}: backend={backend.name} cannot train on the {device}; {works} can"
            )


def _check_lengths(model: Network, data: SplitDataModule[Any], longest_written: int) -> None:
    """Raise ValueError if a layer was made for shorter sequences than it will meet."""
    lengths = data.longest()
    longest = {
        "input": lengths[0],
        "source": lengths[0],
        "target": max(lengths[-1], longest_written),
        "both": lengths[0] + max(lengths[-1], longest_written),
    }
    layers = attention_layers(model)
    for name, (queries, keys) in model.attention_axes().items():
        try:
            layers[name].check_lengths(longest[queries], longest[keys])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def has_gpu() -> bool:
    """Whether there is a GPU here."""
    return CUDAAccelerator.is_available() or MPSAccelerator.is_available()
