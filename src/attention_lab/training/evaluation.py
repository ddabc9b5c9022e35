"""Loading a trained run from a checkpoint, and evaluating it on a split."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from attention_lab.config.components import Config, ConfigError
from attention_lab.config.resolve import RunConfig, resolve_recorded
from attention_lab.config.validate import component
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.tracking.run_directory import read_config
from attention_lab.training.build import BuiltRun, build, load_data
from attention_lab.training.checkpoint.checkpoint_io import read
from attention_lab.training.finite import RequireFinite
from attention_lab.training.tasks.base import Split


def restored(
    directory: Path,
    checkpoint: str = "best",
    decoding: Config | None = None,
    with_data: bool = True,
) -> BuiltRun:
    """Build a finished run with the weights of a checkpoint, on the device of this machine.

    Without its dataset a run cannot be evaluated, but it can predict, and needs no data files.

    Args:
        directory: the run directory.
        checkpoint: "best" or "last".
        decoding: options of the task that replace those of the config, such as ``num_beams``.
        with_data: whether to load the dataset.

    Raises:
        FileNotFoundError: if the directory has no such checkpoint or no config.
        Damaged: if the checkpoint is damaged or unsafe to load.
        ConfigError: if the config is invalid in this release.
        RuntimeError: if the weights do not fit the config, or are NaN or infinite.
    """
    config = recorded_config(directory, decoding)
    loaded = read(directory / "checkpoints" / f"{checkpoint}.ckpt")
    checked = resolve_recorded(config, with_data)
    data = load_data(checked) if with_data else _restored_data(loaded, checked)
    run = build(checked, data, trains=False)
    load_weights(run, loaded)
    for name, weight in run.task.model.named_parameters():
        if not weight.isfinite().all():
            raise RuntimeError(f"its weights are NaN or infinite, as in {name}; train it again")
    return run


def recorded_config(directory: Path, decoding: Config | None = None) -> dict[str, Any]:
    """The config of a finished run, for the device of this machine.

    Args:
        directory: the run directory.
        decoding: options of the task that replace those of the config.

    Raises:
        FileNotFoundError: if the directory has no config.
    """
    config = read_config(directory)
    config["trainer"]["accelerator"] = "auto"  # not that of the machine that trained it
    config["task"] |= decoding or {}
    return config


def task_name(directory: Path) -> str:
    """The task of a finished run: "sequence_to_sequence", "classification" or "language_model".

    Raises:
        FileNotFoundError: if the directory has no config.
        ConfigError: if the config is invalid in this release.
    """
    return str(component(read_config(directory), "task").task)


def load_weights(run: BuiltRun, checkpoint: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint into a run.

    Raises:
        ConfigError: if the checkpoint was trained on other data than the run has.
        RuntimeError: if the weights do not fit the model.
    """
    state = checkpoint.get(type(run.data).__qualname__)
    if state is not None:
        try:
            run.data.load_state_dict(state)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    run.task.load_state_dict(checkpoint["state_dict"])


def evaluate(run: BuiltRun, split: Split, rows: Tensor | None = None) -> dict[str, float]:
    """The metrics of a run with its current weights.

    Args:
        run: the run.
        split: "validation" or "test".
        rows: (R,) int64, the rows of the split to evaluate on; None means all.
    """
    return evaluator(run, split)(rows)


def evaluator(run: BuiltRun, split: Split) -> Callable[[Tensor | None], dict[str, float]]:
    """A function that evaluates a run on rows of a split, as :func:`evaluate`, with one Trainer."""
    with quiet():
        trainer = Trainer(
            accelerator=run.trainer_options.accelerator,
            devices=1,
            plugins=[LightningEnvironment()],  # one process, also under torchrun and srun
            precision=run.trainer_options.precision,
            deterministic=run.trainer_options.deterministic,
            inference_mode=run.trainer_options.inference_mode,
            limit_val_batches=run.trainer_options.limit_val_batches,
            limit_test_batches=run.trainer_options.limit_test_batches,
            fast_dev_run=run.trainer_options.fast_dev_run,
            callbacks=[RequireFinite()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
    run_split = trainer.validate if split == "validation" else trainer.test
    prefix = f"{split}/"

    def on_rows(rows: Tensor | None) -> dict[str, float]:
        loader = run.data.evaluation_dataloader(split, rows)
        with quiet():
            (metrics,) = run_split(run.task, loader, verbose=False)
        return {
            name.removeprefix(prefix): value
            for name, value in metrics.items()
            if name.startswith(prefix)
        }

    return on_rows


def _restored_data(checkpoint: Mapping[str, Any], config: RunConfig) -> SplitDataModule[Any]:
    """The dataset of a config, restored from its state in a checkpoint; no files are read."""
    data: SplitDataModule[Any] = config.create("data")
    name = type(data).__qualname__  # Lightning's key for the dataset's state
    try:
        data.restore(checkpoint[name])
    except KeyError as error:
        raise RuntimeError(f"it lacks {error} of the dataset {name}") from error
    return data


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's hints and the warnings about deliberate choices."""
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
            ".*treespec, LeafSpec.*",  # Lightning uses a deprecated class of torch
            ".*returned a view tensor.*",  # no view is changed in place
            ".*broadcast_buffers.*",  # the oldest supported torch lacks its replacement
            ".*Grad strides do not match.*",  # only for small parameters, at little cost
            ".*MLFlow only allows.*",  # it renames metrics of slices
            ".*used to create the checkpoint.*",  # an extension may leave callbacks out
            ".*sync_dist=True.*",  # these metrics are already reduced over all ranks
        ):
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            lightning_log.setLevel(level)
