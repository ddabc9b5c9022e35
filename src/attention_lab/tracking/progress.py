"""Callbacks that report a run's progress: in status.json, and as lines on the terminal."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from attention_lab.printing import echo
from attention_lab.tracking.run_directory import RunRecord


def validation_metrics(trainer: Trainer) -> dict[str, float]:
    """The latest validation metrics by name."""
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("validation/")
    }


class Heartbeat(Callback):
    """Writes the progress to ``status.json``: at the start, every second and at every validation.

    Args:
        record: the run's record.
        monitor: the validation metric to include.
        every_seconds: seconds between two writes during training.
    """

    def __init__(self, record: RunRecord, monitor: str, every_seconds: float = 1.0) -> None:
        self.record = record
        self.monitor = monitor
        self.every_seconds = every_seconds
        self._last = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._beat(trainer)  # progress in status.json shows that training has started

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self._last >= self.every_seconds:
            self._beat(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._beat(trainer)

    def _beat(self, trainer: Trainer) -> None:
        self._last = time.monotonic()
        steps = int(trainer.estimated_stepping_batches)
        metrics = validation_metrics(trainer)
        monitored = {self.monitor: metrics[self.monitor]} if metrics else {}
        self.record.progress(trainer.global_step, steps, monitored)


class ProgressLines(Callback):
    """Prints one line at each validation, for logs and pipes, which cannot show a progress bar."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = "  ".join(
            f"{name} {value:.4g}"
            for name, value in validation_metrics(trainer).items()
            if name.count("/") == 1  # without metrics on slices, which are in metrics.csv
        )
        echo(f"step {trainer.global_step}/{int(trainer.estimated_stepping_batches)}  {metrics}")
