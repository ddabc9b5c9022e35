"""The callback that saves checkpoints, and resumes a run from one exactly."""

import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from attention_lab.atomic_write import replacing
from attention_lab.data.core.dataloader import TrainingDataLoader
from attention_lab.tracking.metrics_csv import MetricsCSVLogger
from attention_lab.training.checkpoint.checkpoint_io import Damaged, read, write
from attention_lab.training.checkpoint.rng_state import random_states, restore_random_states
from attention_lab.training.checkpoint.schedule import restart_schedule
from attention_lab.training.distributed import process_group
from attention_lab.training.finite import require_finite_weights
from attention_lab.training.history import History
from attention_lab.training.lightning_loops import repeat_validation
from attention_lab.training.tasks.base import AttentionTask

#: The key, in a checkpoint, of the state that Lightning does not save itself.
STATE_KEY = "attention_lab"
#: In that state: the run that this checkpoint extends, until the next checkpoint is saved.
EXTENDS = "extends"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically; a failure is a warning and does not end training.

    A valid checkpoint that is replaced is kept as ``previous.ckpt``. Lightning's own writer
    ignores a PermissionError, so that training would finish without a checkpoint.
    """

    def __init__(self) -> None:
        #: Why the last save failed; None if it did not. Set on the rank that writes.
        self.failure: OSError | None = None
        #: The path of a checkpoint that is known to be valid. A save to this path renames it to
        #: ``previous.ckpt``.
        self.valid: Path | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        before = target.with_name(PREVIOUS) if target == self.valid else None
        try:
            write(checkpoint, target, before)
        except OSError as error:  # not raised: other ranks wait for this one
            self.failure = error
            _warn(target, checkpoint.get("global_step"), error)
        else:
            self.failure, self.valid = None, target

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        checkpoint = read(Path(path), "cpu" if map_location is None else map_location)
        self.valid = Path(path)
        return checkpoint


class Checkpoints(Checkpoint):
    """Saves ``last`` at each validation, and copies it to ``best`` if the metric has improved.

    To resume a run exactly, checkpoints also contain state that Lightning does not save: random
    states, the number of rows of ``metrics.csv``, and whether training had ended. The earlier
    ``last`` is kept as ``previous``. A failure to save does not end training, but the run cannot
    finish without ``best``.

    Args:
        directory: the directory of the checkpoints.
        monitor: the metric.
        mode: "min" or "max": which values of it are better.
        history: the history of validations, a callback that comes before this one.
        metrics: the run's ``metrics.csv``.
        every: also save ``last`` after this many steps each; None means at validations only.
    """

    def __init__(
        self,
        directory: Path,
        monitor: str,
        mode: str,
        history: History,
        metrics: MetricsCSVLogger,
        every: int | None = None,
    ) -> None:
        self.last, self.best = directory / LAST, directory / BEST
        self.monitor, self.mode = monitor, mode
        self.history, self.metrics = history, metrics
        self.every = every
        #: The step of the newest saved checkpoint; None if there is none.
        self.saved_step: int | None = None
        self._failures: list[OSError] = []
        #: The step of the last attempt to save, or of the loaded checkpoint.
        self._tried: int | None = None
        #: The loaded state; None unless the run is resumed.
        self._loaded: dict[str, Any] | None = None
        #: The state before the current validation; None outside of validations.
        self._before_validation: dict[str, Any] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before_validation = None
        self._save(trainer)
        step = trainer.global_step
        if self._best_step() == step == self.saved_step and trainer.is_global_zero:
            self._keep_best(self.last, step)
            for logger in trainer.loggers:
                # This is no ModelCheckpoint, but has the properties that loggers read.
                logger.after_save_checkpoint(self)  # type: ignore[arg-type]

    @property
    def best_model_score(self) -> float:
        """The best value of the metric so far."""
        return self.history.best(self.monitor, self.mode).metrics[self.monitor]

    def save_between(self, trainer: Trainer) -> None:
        """Save ``last`` between two batches, unless it was already tried at this step.

        During a validation, the state before it is saved, and resuming repeats the validation.
        """
        if trainer.global_step not in (0, self._tried):
            self._save(trainer)

    def read_best(self) -> dict[str, Any]:
        """The content of the best checkpoint.

        Raises:
            OSError: if it could not be saved.
            Damaged: if the file is damaged or outdated.
        """
        try:
            checkpoint = read(self.best)
        except (FileNotFoundError, Damaged) as error:
            raise (self._failures[-1] if self._failures else error) from None
        if checkpoint["global_step"] != self._best_step():
            raise self._failures[-1] if self._failures else Damaged(f"{self.best} is outdated")
        return checkpoint

    def _save(self, trainer: Trainer) -> None:
        # A checkpoint with NaN or infinite weights would be useless.
        task = cast(AttentionTask, trainer.lightning_module)
        require_finite_weights(task.model, trainer.global_step)
        self._tried = trainer.global_step
        if trainer.is_global_zero:
            self.metrics.sync()  # so that the checkpoint counts only rows that are on disk
        trainer.save_checkpoint(self.last)
        writer = trainer.strategy.checkpoint_io
        assert isinstance(writer, AtomicCheckpointIO)
        if writer.failure is None:
            self.saved_step = trainer.global_step
        else:
            self._failures.append(writer.failure)

    def _keep_best(self, source: Path, step: int) -> None:
        try:
            _copy(source, self.best)
        except OSError as error:
            self._failures.append(error)
            _warn(self.best, step, error)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = self._before_validation or self._state()
        checkpoint[STATE_KEY] = {
            "random": process_group.all_gather(state["random"]),
            "rows": state["rows"],
            "validates": self._before_validation is not None,
            "ended": trainer.should_stop,
            "best_step": self._best_step(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = state = checkpoint[STATE_KEY]
        self._tried = self.saved_step = step = checkpoint["global_step"]
        if not trainer.is_global_zero:
            return
        # Lightning reads the checkpoint of a sharded model without this package's writer, which
        # then does not know that newest() has verified the file.
        writer = trainer.strategy.checkpoint_io
        assert isinstance(writer, AtomicCheckpointIO)
        writer.valid = Path(str(trainer.ckpt_path))
        self.metrics.resume(state["rows"])
        source = Path(str(trainer.ckpt_path))
        if state["best_step"] == step and source != self.best:
            self._keep_best(source, step)  # the process may have been killed just before this

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every is not None and isinstance(trainer.train_dataloader, TrainingDataLoader):
            trainer.train_dataloader.before_each.append(lambda: self._save_when_due(trainer))
        if self._loaded is not None:  # not earlier: setting up loaders draws random numbers
            restore_random_states(self._loaded["random"][process_group.rank()])
            trainer.should_stop = self._loaded["ended"]
            if (extended := self._loaded.get(EXTENDS)) is not None:
                restart_schedule(trainer, extended)
        cast(AttentionTask, pl_module).before_validation.append(self._remember_state)
        if self._loaded is not None and self._loaded["validates"]:
            repeat_validation(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._failures:
            step = self.saved_step
            saved = "none was saved" if step is None else f"the newest is of step {step}"
            failed = f"failed to save {len(self._failures)} checkpoint(s)"
            warnings.warn(f"{failed} ({_cause(self._failures[-1])}); {saved}", stacklevel=1)

    def _save_when_due(self, trainer: Trainer) -> None:
        assert self.every is not None
        if trainer.global_step % self.every == 0:
            self.save_between(trainer)

    def _state(self) -> dict[str, Any]:
        return {"random": random_states(), "rows": self.metrics.rows}

    def _remember_state(self) -> None:
        """Remember the state that a checkpoint during the coming validation must hold."""
        self._before_validation = self._state()

    def _best_step(self) -> int | None:
        if not self.history.validations:
            return None
        return self.history.best(self.monitor, self.mode).step


def newest(directory: Path) -> Path | None:
    """The newest checkpoint that a run can be resumed from; None if there is none.

    A checkpoint is skipped with a warning if it is damaged or of an unsupported version, or if the
    best checkpoint that it refers to is lost.
    """
    best = _steps(directory / BEST)
    for name in (LAST, PREVIOUS):
        path = directory / name
        found = _steps(path)
        if found is None or (best is not None and found.step < best.step):
            continue
        if found.best_step in (None, found.step, best and best.step):
            return path
        _warn_of_skipped(
            f"{path} refers to the best checkpoint, of step {found.best_step}, which is lost"
        )
    return None if best is None else directory / BEST


class _Steps(NamedTuple):
    """The step of a checkpoint, and the step of the best checkpoint so far, if any."""

    step: int
    best_step: int | None


def _steps(path: Path) -> _Steps | None:
    """The steps of a checkpoint that a run can be resumed from; None if it cannot be."""
    if not path.exists():
        return None
    try:
        checkpoint = read(path)
    except Damaged as error:
        reason = str(error)
    except (OSError, RuntimeError, EOFError) as error:
        reason = f"{path} cannot be read: {str(error).partition(chr(10))[0]}"
    else:
        if STATE_KEY in checkpoint:
            return _Steps(checkpoint["global_step"], checkpoint[STATE_KEY]["best_step"])
        reason = f"{path} lacks the state that is needed to resume a run"
    _warn_of_skipped(reason)
    return None


def _warn_of_skipped(reason: str) -> None:
    warnings.warn(f"{reason}; it is skipped", stacklevel=4)


def _warn(path: Path, step: object, error: OSError) -> None:
    message = f"{path} could not be saved at step {step} ({_cause(error)})"
    warnings.warn(f"{message}; the previous checkpoint is kept", stacklevel=2)


def _cause(error: OSError) -> str:
    return error.strerror or str(error)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, replacing(target) as new:
        shutil.copyfileobj(old, new, 1 << 20)
