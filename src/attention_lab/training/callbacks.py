"""The callbacks that a config chooses, checked and created."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import combinations

import torch
from lightning import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    ProgressBar,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig
from attention_lab.config.validate import components
from attention_lab.data.core.metric_info import metric_info
from attention_lab.spelling import nearest
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.weight_averaging import AveragedWeights

#: Callbacks of Lightning that cannot be chosen, and what to use instead.
REFUSED: dict[type[Callback], str] = {
    Checkpoint: "checkpoints are always saved; trainer.every_n_train_steps saves more of them",
    ProgressBar: "use trainer.enable_progress_bar",
    WeightAveraging: "use callbacks=ema or callbacks=swa, which resume exactly",
    StochasticWeightAveraging: "use callbacks=swa, which also evaluates the average",
    GradientAccumulationScheduler: "the number of batches in a step cannot change in a run",
    BatchSizeFinder: "set data.batch_size",
    LearningRateFinder: "tune the learning rate with sweep.tune=optimizer.lr",
    ModelPruning: "it renames weights, so the run could not be evaluated",
    BackboneFinetuning: "the models have no backbone",
}
PREFIX = "validation/"


def create_callbacks(config: RunConfig, task: AttentionTask) -> list[Callback]:
    """The callbacks of a config, by its section ``callbacks``.

    Args:
        config: the config.
        task: the LightningModule that they will be called with.

    Raises:
        ConfigError: if one of them cannot be used, or two of them exclude each other.
    """
    created: dict[str, Callback] = {}
    for name, kind in components(config.record, "callbacks").items():
        path, node = f"callbacks.{name}", config.values["callbacks"][name]
        _check_kind(path, kind, config.values["trainer"])
        if issubclass(kind, DeviceStatsMonitor):
            _check_psutil(path, node, config.values["trainer"])
        given = _monitored(node.get("monitor"), task)
        created[path] = config.create_named("callbacks", name, **given)
        if isinstance(callback := created[path], EarlyStopping):
            _check_early_stopping(path, callback, task)
        if isinstance(callback, Timer):
            _check_timer(path, callback, node)
    _check_pairs(created)
    return list(created.values())


def may_stop_early(kinds: Iterable[type]) -> bool:
    """Whether a callback of one of these classes may end training before its last step."""
    return any(issubclass(kind, EarlyStopping | Timer) for kind in kinds)


def _check_kind(path: str, kind: type[Callback], trainer: Mapping[str, object]) -> None:
    """Raise ConfigError if a callback is not supported."""
    for refused, remedy in REFUSED.items():
        if issubclass(kind, refused) and not issubclass(kind, AveragedWeights):
            raise ConfigError(f"{path}: {kind.__name__} cannot be used; {remedy}")
    if issubclass(kind, AveragedWeights) and trainer["strategy"] == "fsdp":
        raise ConfigError(f"{path}: cannot average weights with trainer.strategy=fsdp")


def _check_psutil(path: str, node: Mapping[str, object], trainer: Mapping[str, object]) -> None:
    """Raise ConfigError if device statistics are of the CPU, and psutil is not installed."""
    watches_cpu = node.get("cpu_stats")
    if watches_cpu is None:
        watches_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
    if watches_cpu and find_spec("psutil") is None:
        raise ConfigError(
            f"{path}: needs psutil; pip install 'attention-lab[device_stats]', or set "
            "cpu_stats=false to watch GPUs only"
        )


def _monitored(monitor: str | None, task: AttentionTask) -> dict[str, str]:
    """The arguments ``monitor`` and ``mode`` of a callback whose config sets neither, or one."""
    if monitor is None:
        return {"monitor": PREFIX + task.data.monitor, "mode": task.data.mode}
    return {"mode": metric_info(monitor.removeprefix(PREFIX)).mode}


def _check_early_stopping(path: str, callback: EarlyStopping, task: AttentionTask) -> None:
    """Raise ConfigError if early stopping would not find its metric in the first validation."""
    if callback.patience < 1:
        raise ConfigError(f"{path}: patience must be at least 1, got {callback.patience}")
    monitor, has_slices = callback.monitor, "validation" in task.slice_accuracy
    is_slice = has_slices and monitor.startswith(f"{PREFIX}accuracy/")
    if not callback.strict or is_slice or monitor == PREFIX + task.data.monitor:
        return
    known = list(_validation_metrics(task))
    if monitor not in known:
        hint = nearest(monitor, known)
        raise ConfigError(f"{path}.monitor: there is no metric {monitor}{hint}")


def _check_timer(path: str, callback: Timer, node: Mapping[str, object]) -> None:
    """Raise ConfigError if a timer could end training without a validation."""
    remaining = callback.time_remaining()
    if remaining is not None and remaining <= 0:
        raise ConfigError(f"{path}.duration: must be above 0, got {node['duration']}")
    if node.get("interval") == "epoch":
        raise ConfigError(f"{path}.interval: epoch may skip the last validation; use step")


def _validation_metrics(task: AttentionTask) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns that there was no batch
        return (PREFIX + name for name in task.compute_metrics("validation"))


def _check_pairs(callbacks: Mapping[str, Callback]) -> None:
    """Raise ConfigError if two callbacks save their states under one key, or average weights."""
    for (path, one), (other_path, other) in combinations(callbacks.items(), 2):
        if one.state_key == other.state_key:
            name = type(one).__name__
            raise ConfigError(f"{path} and {other_path} are the same, {name}; remove one of them")
        if isinstance(one, AveragedWeights) and isinstance(other, AveragedWeights):
            raise ConfigError(f"{path} and {other_path} both average the weights; remove one")
