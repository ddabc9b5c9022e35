"""Building the parts of a run from its config."""

import inspect
from dataclasses import dataclass
from typing import Any

from lightning import seed_everything
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from torch import nn

from attention_lab.attention import BACKENDS, attention_layers
from attention_lab.config.data_files import check_unchanged
from attention_lab.config.resolve import RunConfig
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.models.base import Network
from attention_lab.tracking.wandb_logger import LoggerOptions
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.trainer import TrainerOptions


@dataclass(frozen=True)
class BuiltRun:
    """The parts of a run, built and ready to train."""

    data: SplitDataModule[Any]
    task: AttentionTask
    trainer_options: TrainerOptions
    logger_options: LoggerOptions


def load_data(config: RunConfig) -> SplitDataModule[Any]:
    """The dataset of a config, loaded and split.

    Raises:
        ConfigError: if its options cannot work, or a file is not the one that the config records.
    """
    check_unchanged(config.values)
    with config.errors():
        data: SplitDataModule[Any] = config.create("data")
        data.setup()
        return data


def build(config: RunConfig, data: SplitDataModule[Any] | None = None) -> BuiltRun:
    """Build the parts of a run; nothing is written.

    Args:
        config: the config of the run.
        data: the config's dataset, if it is already loaded.

    Raises:
        ConfigError: if the parts do not work together; the message is one line.
    """
    data = load_data(config) if data is None else data
    optimizer, options = config.create("optimizer"), config.create("trainer")
    seed_everything(config.seed, workers=True, verbose=False)
    with config.errors():
        sizes = data.model_arguments()
        _check_sizes(config, sizes)
        model: Network = config.create("model", **sizes)
        _check_backends(model, "cuda" if _trains_on_gpu(options) else "cpu")
        task = config.create("task", model=model, data=data, optimizer=optimizer)
        _check_lengths(model, data, getattr(task, "max_length", 0))
    return BuiltRun(data, task, options, config.create("logger"))


def _trains_on_gpu(options: TrainerOptions) -> bool:
    return options.accelerator == "gpu" or (options.accelerator == "auto" and has_gpu())


def _check_sizes(config: RunConfig, sizes: dict[str, int]) -> None:
    """Raise ValueError if the model has no argument for one of the data's sizes."""
    model = config.component("model")
    for name in sizes:
        if name not in inspect.signature(model).parameters:
            data = config.component("data").__name__
            raise ValueError(
                f"model: {model.__name__} has no {name}, of which {data} is made; "
                "`attention-lab list model` shows the others"
            )


def _check_backends(model: nn.Module, device: str) -> None:
    """Raise ValueError if a layer's backend cannot train on this device."""
    for name, layer in attention_layers(model).items():
        backend = layer.backend
        if device not in backend.trains_on:
            works = " or ".join(other.name for other in BACKENDS if device in other.trains_on)
            raise ValueError(
                f"{name}: backend={backend.name} cannot train on the {device}; {works} can"
            )


def _check_lengths(model: Network, data: SplitDataModule[Any], longest_generated: int) -> None:
    """Raise ValueError if a layer's maximum length is shorter than the sequences."""
    lengths = data.longest()
    longest = {
        "input": lengths[0],
        "source": lengths[0],
        "target": max(lengths[-1], longest_generated),
        "both": lengths[0] + max(lengths[-1], longest_generated),
    }
    layers = attention_layers(model)
    for name, (queries, keys) in model.attention_axes().items():
        try:
            layers[name].check_lengths(longest[queries], longest[keys])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def has_gpu() -> bool:
    """Whether this machine has a GPU."""
    return CUDAAccelerator.is_available() or MPSAccelerator.is_available()
