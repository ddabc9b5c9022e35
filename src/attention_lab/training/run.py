"""A run: built from its config, trained, tested from its best checkpoint, recorded."""

import inspect
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import nn

from attention_lab.attention import BACKENDS, attention_layers
from attention_lab.data.splits import SplitDataModule
from attention_lab.models.protocol import Network
from attention_lab.recording.attention_maps import AttentionMaps
from attention_lab.recording.metrics import MetricsFile
from attention_lab.recording.progress import Heartbeat, ProgressLines
from attention_lab.recording.run_directory import RunRecord, read_config
from attention_lab.recording.wandb import LoggerOptions
from attention_lab.training.checkpointing import Checkpoints, newest
from attention_lab.training.history import History
from attention_lab.training.nodes import (
    Config,
    ConfigError,
    NodeError,
    component_class,
    create,
    path_of,
)
from attention_lab.training.objective import Diverged, Objective, Split
from attention_lab.training.sections import check
from attention_lab.training.trainer import TrainerOptions

#: How many validation examples the attention maps show.
PROBE_SIZE = 3


@dataclass(frozen=True)
class Run:
    """The parts of a run, built and ready to train."""

    data: SplitDataModule[Any]
    objective: Objective
    trainer_options: TrainerOptions
    logger_options: LoggerOptions


def load_data(config: Config) -> SplitDataModule[Any]:
    """The dataset of a config, loaded and split.

    Raises:
        ConfigError: if its options cannot work.
    """
    with _config_errors(config):
        data: SplitDataModule[Any] = create(config["data"])
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
    with _config_errors(config):
        optimizer = create(config["optimizer"])
        trainer_options = create(config["trainer"])
        if trainer_options.accelerator == "gpu" and not _has_gpu():
            raise ValueError("trainer.accelerator=gpu: there is no GPU here; trainer=cpu works")
        seed_everything(config["seed"], workers=True, verbose=False)
        sizes = data.model_arguments()
        _check_sizes(config, sizes)
        model = create(config["model"], **sizes)
        _check_backends(model, "cuda" if _trains_on_gpu(trainer_options) else "cpu")
        objective = create(config["objective"], model=model, data=data, optimizer=optimizer)
        _check_lengths(model, data, getattr(objective, "max_length", 0))
        return Run(data, objective, trainer_options, create(config["logger"]))


@contextmanager
def _config_errors(config: Config) -> Iterator[None]:
    """What a constructor finds wrong with its arguments is wrong with the config."""
    try:
        yield
    except NodeError as error:
        raise ConfigError(f"{path_of(error.node, config)}: {error}") from error
    except (ValueError, ImportError) as error:
        raise ConfigError(str(error)) from error


def train(
    config: Config, directory: Path, overrides: Sequence[str], group: str | None = None
) -> dict[str, Any]:
    """Train, test and record one run.

    Args:
        config: the resolved config.
        directory: the run's directory; made here.
        overrides: what the user asked for, as ``key=value``.
        group: the sweep that the run belongs to; None means the directory's parent.

    Returns:
        What ``result.json`` holds.

    Raises:
        ConfigError: if the config cannot work; then nothing was written.
        RunExists: if the directory holds a run that has finished, another run, or one at which
            another process is at work.
        Diverged: if the loss stopped being a number. This and any other failure is recorded in
            ``status.json`` first.
    """
    run = build(config)
    config = from_anywhere(config)
    record = RunRecord(directory, config, overrides)
    try:
        with _wandb(run, record, group, config) as loggers:
            result = _fit_and_test(run, record, loggers)
            record.finish(result)  # before W&B, which may take its time
    except Diverged as error:
        record.end("diverged", str(error))
        raise
    except (KeyboardInterrupt, SystemExit):
        record.end("preempted", "interrupted")
        raise
    except BaseException as error:
        record.end("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        record.close()
    return result


def evaluate(
    directory: Path, split: Split, checkpoint: str = "best", decoding: Config | None = None
) -> dict[str, float]:
    """The metrics of a finished run on a split, from its checkpoint.

    Args:
        directory: the run's.
        split: "validation" or "test".
        checkpoint: "best" or "last".
        decoding: settings of the objective in place of those of the config, as ``beams``.

    Raises:
        FileNotFoundError: if the directory has no such checkpoint or no config.
        ConfigError: if its config no longer works.
    """
    return _evaluate(restored(directory, checkpoint, decoding), split)


def restored(
    directory: Path,
    checkpoint: str = "best",
    decoding: Config | None = None,
    with_data: bool = True,
) -> Run:
    """A finished run with the weights of its checkpoint, wherever it was trained.

    Without its data it can read and write text, if the data is text, and needs none of its files.
    Arguments and errors are those of :func:`evaluate`.
    """
    config = read_config(directory)
    config["trainer"]["accelerator"] = "auto"  # a run may be looked at elsewhere
    config["objective"] |= decoding or {}
    kept = _read_checkpoint(directory / "checkpoints" / f"{checkpoint}.ckpt")
    check(config)
    data = load_data(config) if with_data else _data_of(kept, config)
    run = build(config, data)
    _load(run, kept)
    return run


def solves(directory: Path) -> str:
    """The task of a finished run: "sequence_to_sequence", "classification" or "language_model".

    Raises:
        FileNotFoundError: if the directory has no config.
        ConfigError: if its config no longer works.
    """
    config = read_config(directory)
    objective = component_class("objective", config["objective"]["_target_"], (Objective,))
    assert issubclass(objective, Objective)
    return objective.task


def _fit_and_test(run: Run, record: RunRecord, others: list[Logger]) -> dict[str, Any]:
    history = History()
    data, directory = run.data, record.directory
    monitor, mode = f"validation/{data.monitor}", data.mode
    # Before training, which a mistake of a dataset of one's own must not cost; of validation only.
    threshold = data.floor("validation")[data.monitor]
    maps = AttentionMaps(directory / "attention", PROBE_SIZE)
    metrics = MetricsFile(directory / "metrics.csv")
    loggers = [metrics, *others]
    checkpoints = Checkpoints(directory / "checkpoints", monitor, mode, history, metrics)
    heartbeat, display = Heartbeat(record, monitor), _display(run.trainer_options)
    with _quiet():
        trainer = run.trainer_options.trainer(
            directory,
            monitor,
            mode,
            len(data.train_dataloader()),
            [maps, history, heartbeat, display, checkpoints],
            loggers,
        )
        checkpoint = newest(directory / "checkpoints") if record.goes_on else None
        if record.goes_on:
            print(f"goes on from {checkpoint}" if checkpoint else "begins again: no checkpoint yet")
        try:
            trainer.fit(run.objective, datamodule=data, ckpt_path=checkpoint and str(checkpoint))
        except BaseException as error:
            if _began_with_ctrl_c(error):  # which Lightning takes without a word
                raise KeyboardInterrupt from error
            raise
    _load(run, _read_checkpoint(directory / "checkpoints" / "best.ckpt"))
    test = _evaluate(run, "test")
    for logger in loggers:
        logged = {f"test/{name}": value for name, value in test.items()}
        logger.log_metrics(logged, step=trainer.global_step)
        logger.save()
    best, last = history.best(monitor, mode), history.validations[-1]
    return {
        "task": data.task,
        "monitor": data.monitor,
        "mode": mode,
        "validation": _short(best.metrics),
        "last": _short(last.metrics),
        "test": test,
        "floor": data.floor("test"),
        "shortcuts": data.shortcuts("test"),
        "parameters": sum(p.numel() for p in run.objective.model.parameters()),
        "tokens_per_second": int(run.objective.tokens) / history.training_seconds,
        "peak_memory_bytes": history.peak_memory_bytes,
        "steps": trainer.global_step,
        "best_step": best.step,
        "threshold": threshold,
        "steps_to_threshold": history.steps_to(threshold, monitor, mode),
        "area_under_curve": history.area_under_curve(monitor),
        "seconds": {
            "total": history.seconds,
            "training": history.training_seconds,
            "validation": history.validation_seconds,
            "attention_maps": maps.seconds,
        },
        "backends": {
            name: layer.backend.name
            for name, layer in attention_layers(run.objective.model).items()
        },
    }


def _short(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("validation/"): value for name, value in metrics.items()}


def from_anywhere(config: Config) -> Config:
    """The config with the user's own files by absolute paths, so that it works from anywhere.

    So it is recorded, and of this the identity of a run is taken.
    """

    def absolute(paths: Any) -> Any:
        if isinstance(paths, str) and paths:
            return str(Path(paths).expanduser().resolve())
        return [absolute(path) for path in paths] if isinstance(paths, list) else paths

    data = config["data"]
    kind: type[Any] = component_class("data", data["_target_"], (SplitDataModule,))
    found = {name: absolute(data[name]) for name in kind.files if name in data}
    return {**config, "data": {**data, **found}}


def _began_with_ctrl_c(error: BaseException | None) -> bool:
    """Whether an error came of Ctrl-C: Lightning exits, and half a checkpoint raises."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _read_checkpoint(path: Path) -> dict[str, Any]:
    kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return kept


def _data_of(kept: Mapping[str, Any], config: Config) -> SplitDataModule[Any]:
    """The dataset of a config, with what a checkpoint kept of it in place of its files."""
    with _config_errors(config):
        data: SplitDataModule[Any] = create(config["data"])
    name = type(data).__qualname__  # where Lightning puts what a dataset keeps
    try:
        data.restore(kept[name])
    except KeyError as error:
        raise RuntimeError(f"of its data, {name}, it does not hold {error}") from error
    return data


def _load(run: Run, kept: Mapping[str, Any]) -> None:
    """Take the weights of a checkpoint, if its data is this run's."""
    known = kept.get(type(run.data).__qualname__)
    if known is not None:
        try:
            run.data.load_state_dict(known)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    run.objective.load_state_dict(kept["state_dict"])


def _evaluate(run: Run, split: Split) -> dict[str, float]:
    loader = run.data.evaluation_dataloader(split)
    with _quiet():
        trainer = Trainer(
            accelerator=run.trainer_options.accelerator,
            devices=1,
            precision=run.trainer_options.precision,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        look = trainer.validate if split == "validation" else trainer.test
        (metrics,) = look(run.objective, loader, verbose=False)
    prefix = f"{split}/"
    return {k.removeprefix(prefix): value for k, value in metrics.items() if k.startswith(prefix)}


@contextmanager
def _wandb(
    run: Run, record: RunRecord, group: str | None, config: Config
) -> Iterator[list[Logger]]:
    """W&B's logger, if it is asked for; a W&B run ends as what it was, finished or failed."""
    directory = record.directory
    group = directory.resolve().parent.name if group is None else group
    wandb_logger = run.logger_options.logger(directory, group, config, record.wandb_id)
    try:
        yield [wandb_logger] if wandb_logger else []
    except BaseException:
        _finish(wandb_logger, exit_code=1)
        raise
    _finish(wandb_logger, exit_code=0)


def _finish(wandb_logger: WandbLogger | None, exit_code: int) -> None:
    if wandb_logger is None:
        return
    try:
        wandb_logger.experiment.finish(exit_code=exit_code)
    except Exception as error:  # the run itself is on disk
        warnings.warn(f"W&B did not finish: {error}", stacklevel=2)


def _display(options: TrainerOptions) -> Callback:
    in_terminal = options.progress and sys.stdout.isatty()
    return RichProgressBar(leave=True) if in_terminal else ProgressLines()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice on matters that were decided here."""
    lightning_log = logging.getLogger("lightning.pytorch")
    level = lightning_log.level
    lightning_log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",  # batches are slices of tensors in memory
            ".*is not empty.*",  # the run directory already holds its status and config
            ".*smaller than the logging interval.*",
            ".*GPU available but not used.*",
            ".*treespec, LeafSpec.*",  # between Lightning and torch
        ):
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            lightning_log.setLevel(level)


def _trains_on_gpu(options: TrainerOptions) -> bool:
    return options.accelerator == "gpu" or (options.accelerator == "auto" and _has_gpu())


def _check_sizes(config: Config, sizes: dict[str, int]) -> None:
    """Raise ValueError if the model cannot read such data."""
    model = component_class("model", config["model"]["_target_"], (Network,))
    for name in sizes:
        if name not in inspect.signature(model).parameters:
            data = config["data"]["_target_"].rpartition(".")[2]
            raise ValueError(
                f"model: {model.__name__} knows no {name}, and so cannot read {data}; "
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


def _has_gpu() -> bool:
    return CUDAAccelerator.is_available() or MPSAccelerator.is_available()
