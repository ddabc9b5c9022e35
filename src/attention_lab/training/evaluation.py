"""Runs that have been trained: their weights, and their metrics on a split."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from attention_lab.config.components import Config, ConfigError
from attention_lab.config.resolve import RunConfig, resolve_recorded
from attention_lab.config.validate import component
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.tracking.run_directory import read_config
from attention_lab.training.build import Run, build, load_data
from attention_lab.training.checkpoint.checkpoint_io import read
from attention_lab.training.finite import RequireFinite
from attention_lab.training.tasks.base import Split


def restored(
    directory: Path,
    checkpoint: str = "best",
    decoding: Config | None = None,
    with_data: bool = True,
) -> Run:
    """A finished run with the weights of its checkpoint, wherever it was trained.

    Without its data it can read and write text, if the data is text, and needs none of its files.

    Args:
        directory: the run's.
        checkpoint: "best" or "last".
        decoding: settings of the task in place of those of the config, as ``beams``.
        with_data: whether to load its data.

    Raises:
        FileNotFoundError: if the directory has no such checkpoint or no config.
        Damaged: if the checkpoint is not what was written.
        ConfigError: if its config no longer works.
        RuntimeError: if the weights do not fit the config, or are NaN or infinite.
    """
    config = read_config(directory)
    config["trainer"]["accelerator"] = "auto"  # a run may be looked at elsewhere
    config["task"] |= decoding or {}
    kept = read(directory / "checkpoints" / f"{checkpoint}.ckpt")
    checked = resolve_recorded(config, with_data)
    run = build(checked, load_data(checked) if with_data else _data_of(kept, checked))
    load_weights(run, kept)
    for name, weight in run.task.model.named_parameters():
        if not weight.isfinite().all():
            raise RuntimeError(f"its weights are NaN or infinite, as in {name}; train it again")
    return run


def solves(directory: Path) -> str:
    """The task of a finished run: "sequence_to_sequence", "classification" or "language_model".

    Raises:
        FileNotFoundError: if the directory has no config.
        ConfigError: if its config no longer works.
    """
    return str(component(read_config(directory), "task").task)


def load_weights(run: Run, kept: Mapping[str, Any]) -> None:
    """Take the weights of a checkpoint, if its data is this run's."""
    known = kept.get(type(run.data).__qualname__)
    if known is not None:
        try:
            run.data.load_state_dict(known)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    run.task.load_state_dict(kept["state_dict"])


def evaluate(run: Run, split: Split) -> dict[str, float]:
    """The metrics of a run on a split, "validation" or "test", with the weights that it has."""
    loader = run.data.evaluation_dataloader(split)
    with quiet():
        trainer = Trainer(
            accelerator=run.trainer_options.accelerator,
            devices=1,
            plugins=[LightningEnvironment()],  # alone, whoever else may train beside it
            precision=run.trainer_options.precision,
            callbacks=[RequireFinite()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        look = trainer.validate if split == "validation" else trainer.test
        (metrics,) = look(run.task, loader, verbose=False)
    prefix = f"{split}/"
    return {k.removeprefix(prefix): value for k, value in metrics.items() if k.startswith(prefix)}


def _data_of(kept: Mapping[str, Any], config: RunConfig) -> SplitDataModule[Any]:
    """The dataset of a config, with what a checkpoint kept of it in place of its files."""
    data: SplitDataModule[Any] = config.create("data")
    name = type(data).__qualname__  # where Lightning puts what a dataset keeps
    try:
        data.restore(kept[name])
    except KeyError as error:
        raise RuntimeError(f"of its data, {name}, it does not hold {error}") from error
    return data


@contextmanager
def quiet() -> Iterator[None]:
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
            ".*`srun` command is available.*",
            ".*treespec, LeafSpec.*",  # between Lightning and torch
            ".*returned a view tensor.*",  # none is changed in place
            ".*broadcast_buffers.*",  # its successor is younger than the oldest torch that will do
            ".*Grad strides do not match.*",  # of small parameters, which costs next to nothing
            ".*sync_dist=True.*",  # what is logged there is of all processes already
        ):
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            lightning_log.setLevel(level)
