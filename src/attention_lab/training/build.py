"""Building the parts of a run (dataset, task, trainer and logger options) from its config."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, seed_everything
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from torch import nn

from attention_lab.attention import BACKENDS, attention_layers
from attention_lab.config.components import Config, ConfigError, create
from attention_lab.config.data_files import check_unchanged
from attention_lab.config.resolve import RunConfig
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.memory import NO_MACHINE, check_fits
from attention_lab.models.base import Network
from attention_lab.models.blocks import checkpoint_layers
from attention_lab.models.embedding import LearnedPositions
from attention_lab.training.callbacks import create_callbacks
from attention_lab.training.extension import check_extension, check_longer
from attention_lab.training.initial_weights import load_initial_weights
from attention_lab.training.optim import Optimization
from attention_lab.training.packing import check_packing
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.trainer import TrainerOptions, limited_batches

#: Optimizers that update each element of a parameter independently, so they can update shards.
ELEMENTWISE = (torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.SGD)

#: More layers than this are not created to count their parameters.
_MANY = 100
#: Bytes of a weight.
_BYTES = 4
#: The least number of vectors that a layer saves for each token, for the backward pass: its input,
#: query, key and value, or its input alone with gradient checkpointing.
_SAVED, _SAVED_CHECKPOINTED = 4, 1


@dataclass(frozen=True)
class BuiltRun:
    """The parts of a run, built and ready to train."""

    data: SplitDataModule[Any]
    task: AttentionTask
    trainer_options: TrainerOptions
    callbacks: Sequence[Callback] = ()
    #: What ``model.init_from`` has loaded, in one line; "" without it.
    initial_weights: str = ""


def load_data(config: RunConfig, shares: Mapping[str, float] | None = None) -> SplitDataModule[Any]:
    """The dataset of a config, loaded and split.

    Args:
        config: the config.
        shares: the shares of the training file (``SplitDataModule.shares``), if they are those of
            another dataset.

    Raises:
        ConfigError: if its options are invalid, or a file differs from the one that was recorded.
    """
    with config.errors():
        check_unchanged(config.values)
        data: SplitDataModule[Any] = config.create("data")
        if shares is not None:
            data.shares = dict(shares)
        data.setup()
        return data


def build(
    config: RunConfig, data: SplitDataModule[Any] | None = None, trains: bool = True
) -> BuiltRun:
    """Build the parts of a run; nothing is written.

    Args:
        config: the config of the run.
        data: the config's dataset, if it is already loaded.
        trains: whether the run will train; some backends support only inference on some devices.

    Raises:
        ConfigError: if the parts do not work together; the message is one line.
    """
    if trains:
        check_extension(config)
    data = load_data(config) if data is None else data
    options = config.create("trainer")
    if trains:
        check_longer(config, data, options)
    optimization = _optimization(config, options)
    with config.errors():
        sizes = data.model_arguments()
        _check_sizes(config, sizes)
        _check_memory(config, sizes, data.batch_size, trains)
        if trains:
            _check_activations(config, data, options)
    seed_everything(config.seed, workers=True, verbose=False)
    with config.errors():
        model: Network = config.create("model", **sizes)
        initial_weights = load_initial_weights(config, model, data) if trains else ""
        if options.gradient_checkpointing:
            checkpoint_layers(model)
        optimization.create_optimizer(model)  # raises its errors before anything is written
        if trains:
            _check_backends(model, device_type(options))
            _check_precision(options)
            _check_limits(data, options)
        check_packing(model, data, sizes, trains)
        task = config.create("task", model=model, data=data, optimization=optimization)
        check_lengths(model, data.longest(), getattr(task, "max_length", 0))
        callbacks = create_callbacks(config, task) if trains else ()
    return BuiltRun(data, task, options, callbacks, initial_weights)


def check_training(config: RunConfig, built: BuiltRun) -> None:
    """Check the optimizer and the callbacks of a config that otherwise equals that of a built run.

    Raises:
        ConfigError: as :func:`build`.
    """
    optimization = _optimization(config, built.trainer_options)
    with config.errors():
        optimization.create_optimizer(built.task.model)
        create_callbacks(config, built.task)


def _optimization(config: RunConfig, options: TrainerOptions) -> Optimization:
    """The optimizer, schedule and parameter groups of a config.

    Adam and AdamW use their fused kernel, which is faster for small models. Under 16-mixed they do
    not: a fused optimizer unscales gradients in its step, but they must be unscaled before they are
    clipped.
    """
    kind, optimizer = config.component("optimizer"), config.create("optimizer")
    node, scaled = config.values["optimizer"], options.precision == "16-mixed"
    if node.get("fused") and scaled:
        raise ConfigError("optimizer.fused: cannot be true with trainer.precision=16-mixed")
    if options.strategy == "fsdp" and not issubclass(kind, ELEMENTWISE):
        raise ConfigError(f"optimizer: {kind.__name__} cannot train with trainer.strategy=fsdp")
    excludes_fused = scaled or node.get("foreach") or node.get("differentiable")
    if kind in (torch.optim.Adam, torch.optim.AdamW) and node.get("fused") is None:
        optimizer = functools.partial(optimizer, fused=not excludes_fused)
    return Optimization(optimizer, config.create("scheduler"), config.create("parameter_groups"))


def device_type(options: TrainerOptions) -> str:
    """The kind of device of a training on this machine: "cpu", "cuda" or "mps"."""
    if options.accelerator == "cpu" or (options.accelerator == "auto" and not has_gpu()):
        return "cpu"
    return "mps" if MPSAccelerator.is_available() else "cuda"


def _check_sizes(config: RunConfig, sizes: dict[str, int]) -> None:
    """Raise ValueError if the model has no argument for one of the data's sizes."""
    model = config.component("model")
    for name in sizes:
        if name in config.values["model"]:
            raise ValueError(f"model.{name}: cannot be set; the data sets it")
        if name not in inspect.signature(model).parameters:
            data = config.component("data").__name__
            raise ValueError(
                f"model: {model.__name__} has no argument {name}, which {data} sets; "
                "`attention-lab list model` shows the others"
            )


def _check_memory(config: RunConfig, sizes: dict[str, int], batch_size: int, trains: bool) -> None:
    """Raise TooLarge if the parameters, or the hypotheses of beam search, do not fit into memory.

    The parameters of an instance are counted without memory, on the meta device, and extrapolated
    to the number of layers: each layer takes milliseconds to create.
    """
    node = config.values["model"]
    layers = {key: number for key, number in node.items() if key.endswith("_layers")}
    layers = {key: number for key, number in layers.items() if number and number > _MANY}
    shallow = {**node, **dict.fromkeys(layers, 1)}
    total = parameters = _count_parameters(shallow, sizes)
    for key, number in layers.items():
        total += (number - 1) * (_count_parameters({**shallow, key: 2}, sizes) - parameters)
    copies = 2 if trains and config.values["trainer"].get("strategy") != "fsdp" else 1
    whose = "parameters and their gradients" if copies == 2 else "parameters"
    check_fits(f"model: its {whose} need", total * copies * _BYTES)
    beams = config.values["task"].get("num_beams", 1)
    vocabulary = sizes.get("target_vocab_size", 0)
    check_fits(f"task.num_beams={beams} needs", beams * batch_size * vocabulary * _BYTES)


def _check_activations(
    config: RunConfig, data: SplitDataModule[Any], options: TrainerOptions
) -> None:
    """Raise TooLarge if what the layers save for the backward pass cannot fit into memory.

    This is a lower bound. The memory of GPUs is not read.
    """
    node = config.values["model"]
    layers = sum(number or 0 for key, number in node.items() if key.endswith("_layers"))
    saved = _SAVED_CHECKPOINTED if options.gradient_checkpointing else _SAVED
    tokens = data.batch_size * min(data.longest())
    needed = layers * tokens * node.get("d_model", 0) * saved * _BYTES
    is_here = device_type(options) == "cpu"
    what = f"model: the activations of its {layers:,} layers need at least"
    check_fits(what, needed, None if is_here else NO_MACHINE)


def _count_parameters(node: Config, sizes: dict[str, int]) -> float:
    """The number of parameters of a model; 0 if it cannot be created without memory."""
    try:
        with torch.device("meta"):
            model: nn.Module = create(node, (Network,), **sizes)
    except ValueError:  # reported when the model is created
        return 0
    except RuntimeError as error:
        return float("inf") if "overflow" in str(error).lower() else 0
    return sum(parameter.numel() for parameter in model.parameters())


def _check_backends(model: nn.Module, device: str) -> None:
    """Raise ValueError if a layer's backend cannot train on this device."""
    for name, layer in attention_layers(model).items():
        backend = layer.backend
        if device not in backend.trains_on:
            works = " or ".join(other.name for other in BACKENDS if device in other.trains_on)
            raise ValueError(
                f"{name}: backend={backend.name} cannot train on the {device}; {works} can"
            )


def _check_precision(options: TrainerOptions) -> None:
    """Raise ValueError if the device cannot train in the precision."""
    if options.precision == "16-mixed" and device_type(options) == "cpu":
        raise ValueError("trainer.precision=16-mixed needs a GPU; use bf16-mixed on the CPU")


def _check_limits(data: SplitDataModule[Any], options: TrainerOptions) -> None:
    """Raise ValueError if a fraction of the batches of a split is less than one batch."""
    processes, accumulated = options.devices * options.num_nodes, options.accumulate_grad_batches
    batches_of = {
        "limit_train_batches": (processes, accumulated, "train"),
        "limit_val_batches": (processes, 1, "validation"),
        "limit_test_batches": (1, 1, "test"),
        "overfit_batches": (processes, accumulated, "train"),
    }
    for name, which in batches_of.items():
        limit = getattr(options, name)
        # Only a fraction needs the number of batches: test data is not read before training ends.
        if isinstance(limit, float) and 0 < limit < 1:
            batches = data.batches_per_epoch(*which)
            if limited_batches(batches, limit) < 1:
                raise ValueError(f"trainer.{name}={limit}: is less than 1 of {batches} batches")


def check_lengths(model: Network, lengths: Sequence[int], longest_generated: int) -> None:
    """Check that a network has positions for sequences.

    Args:
        model: the network.
        lengths: the length of each sequence of an example, the input's first.
        longest_generated: the most tokens that are generated.

    Raises:
        ValueError: if a layer's maximum length is shorter than the sequences.
    """
    for module in model.modules():
        if isinstance(module, LearnedPositions):  # of the input
            module.check_length(lengths[0])
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
