"""Checkpoints that are either whole or not there, from which training goes on exactly."""

import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from attention_lab.recording.metrics import MetricsFile
from attention_lab.training import ranks
from attention_lab.training.history import History
from attention_lab.training.random_states import random_states, restore_random_states

#: Where a checkpoint has what Lightning does not keep.
_KEPT = "attention_lab"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames; a failed write raises.

    Lightning's own writer stages in the temporary directory and passes over a PermissionError in
    silence: training then "succeeds" without a checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        # A checkpoint is data, whoever made it: never unpickle code.
        location = "cpu" if map_location is None else map_location
        return torch.load(path, map_location=location, weights_only=True)


class Checkpoints(Checkpoint):
    """``last`` and ``best`` (by a validation metric; of equals the first), at every validation.

    They hold what Lightning leaves out as well, so that a run goes on from them as if nothing had
    happened: the random states, the rows of ``metrics.csv``, and whether training was at its end.

    Args:
        directory: where they go.
        monitor: the metric.
        mode: "min" or "max", the end of it that is good.
        history: what knows all validations; a callback that comes before this one.
        metrics: the run's ``metrics.csv``.
    """

    def __init__(
        self, directory: Path, monitor: str, mode: str, history: History, metrics: MetricsFile
    ) -> None:
        self.last, self.best = directory / "last.ckpt", directory / "best.ckpt"
        self.monitor, self.mode = monitor, mode
        self.history, self.metrics = history, metrics
        self._loaded: dict[str, Any] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if ranks.is_first():
            self.metrics.sync()  # a checkpoint never counts rows that may yet be lost
        trainer.save_checkpoint(self.last)
        if self._best_step() == trainer.global_step and ranks.is_first():
            _copy(self.last, self.best)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[_KEPT] = {
            "random": ranks.of_all(random_states()),
            "rows": self.metrics.rows,
            "ended": trainer.should_stop,
            "best_step": self._best_step(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = kept = checkpoint[_KEPT]
        if not ranks.is_first():
            return
        self.metrics.go_on(kept["rows"])
        if kept["best_step"] == checkpoint["global_step"] and trainer.ckpt_path == str(self.last):
            _copy(self.last, self.best)  # the process may have died just before it did

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:  # now, as to set up loaders draws random numbers
            restore_random_states(self._loaded["random"][ranks.rank()])
            trainer.should_stop = self._loaded["ended"]

    def _best_step(self) -> int:
        return self.history.best(self.monitor, self.mode).step


def newest(directory: Path) -> Path | None:
    """The newest checkpoint from which a run can go on, None if there is none.

    What cannot be read, or is of a version that could not go on, is passed over with a warning.
    """
    for name in ("last", "best"):
        path = directory / f"{name}.ckpt"
        if path.exists():
            flaw = _flaw(path)
            if flaw is None:
                return path
            warnings.warn(f"{path} {flaw}; it is passed over", stacklevel=2)
    return None


def _flaw(path: Path) -> str | None:
    """What keeps a run from going on from a checkpoint."""
    try:
        with ZipFile(path) as file:
            if (broken := file.testzip()) is not None:  # every part has a checksum
                return f"is damaged: {broken}"
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        return f"cannot be read: {str(error).partition(chr(10))[0]}"
    return None if _KEPT in kept else "does not hold all that it takes to go on"


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        with source.open("rb") as old, partial.open("wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            os.fsync(new.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
