"""Checkpoints that are either whole or not there, from which training goes on exactly."""

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
from attention_lab.training.distributed import process_group
from attention_lab.training.finite import require_finite_weights
from attention_lab.training.history import History
from attention_lab.training.tasks.base import AttentionTask

#: Where a checkpoint has what Lightning does not keep.
_KEPT = "attention_lab"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes whole checkpoints or none; one that fails is loud, but does not end training.

    What is replaced is kept as ``previous.ckpt`` beside it, if it is known to be whole.
    Lightning's own writer stages in the temporary directory and passes over a PermissionError in
    silence: training then "succeeds" without a checkpoint.
    """

    def __init__(self) -> None:
        #: Why the last attempt failed; None if it did not. Known where files are written.
        self.failure: OSError | None = None
        #: The checkpoint that is known to be whole, so worth keeping when the next one is saved.
        self.whole: Path | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        before = target.with_name(PREVIOUS) if target == self.whole else None
        try:
            write(checkpoint, target, before)
        except OSError as error:  # here, as other processes wait for this one
            self.failure = error
            _warn(target, checkpoint.get("global_step"), error)
        else:
            self.failure, self.whole = None, target

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        kept = read(Path(path), "cpu" if map_location is None else map_location)
        self.whole = Path(path)
        return kept


class Checkpoints(Checkpoint):
    """``last`` and ``best`` (by a validation metric; of equals the first), at every validation.

    They hold what Lightning leaves out as well, so that a run goes on from them as if nothing had
    happened: the random states, the rows of ``metrics.csv``, and whether training was at its end.
    The ``last`` before is kept as ``previous``. A checkpoint that cannot be saved does not end
    training, as long as ``best`` is there at its end.

    Args:
        directory: where they go.
        monitor: the metric.
        mode: "min" or "max", the end of it that is good.
        history: what knows all validations; a callback that comes before this one.
        metrics: the run's ``metrics.csv``.
        every: steps from one save of ``last`` between validations to the next; None means that
            there is none.
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
        #: The step from which the run would go on; None if from its beginning.
        self.saved_step: int | None = None
        self._failures: list[OSError] = []
        self._tried: int | None = None
        self._loaded: dict[str, Any] | None = None
        self._before_validation: dict[str, Any] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before_validation = None
        self._save(trainer)
        step = trainer.global_step
        if self._best_step() == step == self.saved_step and trainer.is_global_zero:
            self._keep_best(self.last, step)

    def save_between(self, trainer: Trainer) -> None:
        """Save ``last`` between two batches, unless it was just done, or tried.

        Between those of a validation, it is saved as it was before that, which is then to be done.
        """
        if trainer.global_step not in (0, self._tried):
            self._save(trainer)

    def read_best(self) -> dict[str, Any]:
        """What the best checkpoint holds.

        Raises:
            OSError: if it could not be saved.
            Damaged: if it is not what was saved.
        """
        try:
            kept = read(self.best)
        except (FileNotFoundError, Damaged) as error:
            raise (self._failures[-1] if self._failures else error) from None
        if kept["global_step"] != self._best_step():
            raise self._failures[-1] if self._failures else Damaged(f"{self.best} is outdated")
        return kept

    def _save(self, trainer: Trainer) -> None:
        # A checkpoint is what a run goes on from, so there must be something to go on from.
        task = cast(AttentionTask, trainer.lightning_module)
        require_finite_weights(task.model, trainer.global_step)
        self._tried = trainer.global_step
        if trainer.is_global_zero:
            self.metrics.sync()  # a checkpoint never counts rows that may yet be lost
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
        now = self._before_validation or self._now()
        checkpoint[_KEPT] = {
            "random": process_group.all_gather(now["random"]),
            "rows": now["rows"],
            "validates": self._before_validation is not None,
            "ended": trainer.should_stop,
            "best_step": self._best_step(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = kept = checkpoint[_KEPT]
        self._tried = self.saved_step = step = checkpoint["global_step"]
        if not trainer.is_global_zero:
            return
        # Of a sharded model, Lightning has read it by itself; it was found whole before.
        writer = trainer.strategy.checkpoint_io
        assert isinstance(writer, AtomicCheckpointIO)
        writer.whole = Path(str(trainer.ckpt_path))
        self.metrics.resume(kept["rows"])
        source = Path(str(trainer.ckpt_path))
        if kept["best_step"] == step and source != self.best:
            self._keep_best(source, step)  # the process may have died just before it did

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every is not None and isinstance(trainer.train_dataloader, TrainingDataLoader):
            trainer.train_dataloader.before_each.append(lambda: self._save_when_due(trainer))
        if self._loaded is not None:  # now, as to set up loaders draws random numbers
            restore_random_states(self._loaded["random"][process_group.rank()])
            trainer.should_stop = self._loaded["ended"]
        cast(AttentionTask, pl_module).before_validation.append(self._look)
        if self._loaded is not None and self._loaded["validates"]:
            _validate(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._failures:
            saved = "none" if self.saved_step is None else f"one of step {self.saved_step}"
            times = f"{len(self._failures)} times a checkpoint could not be saved"
            warnings.warn(f"{times} ({_cause(self._failures[-1])}); there is {saved}", stacklevel=1)

    def _save_when_due(self, trainer: Trainer) -> None:
        assert self.every is not None
        if trainer.global_step % self.every == 0:
            self.save_between(trainer)

    def _now(self) -> dict[str, Any]:
        return {"random": random_states(), "rows": self.metrics.rows}

    def _look(self) -> None:
        """Remember what a validation is about to change."""
        self._before_validation = self._now()

    def _best_step(self) -> int | None:
        if not self.history.validations:
            return None
        return self.history.best(self.monitor, self.mode).step


def _validate(trainer: Trainer) -> None:
    """Do a validation that was broken off; Lightning takes it for done."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False  # it would go on in the middle, without what came before
    trainer.validating = True
    loop.run()
    loop.reset_restart_stage()
    loop._has_run = False  # or Lightning would not end the epoch, if only this was left of it
    trainer.training = True


def newest(directory: Path) -> Path | None:
    """The newest checkpoint from which a run can go on, None if there is none.

    What is damaged, of a version that could not go on, or goes with a ``best`` that is not there,
    is passed over with a warning.
    """
    best = _steps(directory / BEST)
    for name in (LAST, PREVIOUS):
        path = directory / name
        found = _steps(path)
        if found is None or (best is not None and found.step < best.step):
            continue
        if found.best_step in (None, found.step, best and best.step):
            return path
        _pass_over(f"{path} goes with the best checkpoint of step {found.best_step}, which is lost")
    return None if best is None else directory / BEST


class _Steps(NamedTuple):
    """Of which step a checkpoint is, and of which the best one at that time, if there was any."""

    step: int
    best_step: int | None


def _steps(path: Path) -> _Steps | None:
    """What a checkpoint says, if a run can go on from it; None if not."""
    if not path.exists():
        return None
    try:
        kept = read(path)
    except Damaged as error:
        reason = str(error)
    except (OSError, RuntimeError, EOFError) as error:
        reason = f"{path} cannot be read: {str(error).partition(chr(10))[0]}"
    else:
        if _KEPT in kept:
            return _Steps(kept["global_step"], kept[_KEPT]["best_step"])
        reason = f"{path} does not hold all that it takes to go on"
    _pass_over(reason)
    return None


def _pass_over(reason: str) -> None:
    warnings.warn(f"{reason}; it is passed over", stacklevel=4)


def _warn(path: Path, step: object, error: OSError) -> None:
    message = f"{path} could not be saved at step {step} ({_cause(error)})"
    warnings.warn(f"{message}; what was there before is kept", stacklevel=2)


def _cause(error: OSError) -> str:
    return error.strerror or str(error)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, replacing(target) as new:
        shutil.copyfileobj(old, new, 1 << 20)
