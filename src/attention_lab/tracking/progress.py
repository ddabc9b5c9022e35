"""Callbacks that report a run's progress: in status.json, and as lines on the terminal."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from attention_lab.data.core.metric_info import with_unit
from attention_lab.printing import echo, hanging, rich_console
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
        mode: whether "min" or "max" of it is best.
        every_seconds: seconds between two writes during training.
    """

    def __init__(
        self, record: RunRecord, monitor: str, mode: str, every_seconds: float = 1.0
    ) -> None:
        self.record = record
        self.monitor, self.mode = monitor, mode
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
        self.record.progress(trainer.global_step, steps, monitored, self.mode)


class ProgressLines(Callback):
    """Prints a line at each validation and every half minute, for logs and pipes.

    Args:
        every_seconds: seconds between two lines during training.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        self.every_seconds = every_seconds

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._last, self._last_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        seconds = time.monotonic() - self._last
        if seconds >= self.every_seconds:
            speed = (trainer.global_step - self._last_step) / seconds
            loss = trainer.callback_metrics.get("train/loss")
            known = "" if loss is None else f"  train/loss {float(loss):.4g}"
            echo(f"{_steps(trainer)}{known}  {speed:.3g} steps/s")
            self.on_train_start(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = ", ".join(
            f"{name} {with_unit(name, value)}".replace(" ", "\N{NO-BREAK SPACE}")
            for key, value in validation_metrics(trainer).items()
            if "/" not in (name := key.removeprefix("validation/"))  # slices: in metrics.csv
        )
        echo(*hanging(metrics, f"{_steps(trainer)}  validation: "))


class StepBar(ProgressLines):
    """A progress bar of all steps of the training, below a line for each validation."""

    #: Seconds between two refreshes.
    INTERVAL = 0.1

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            MofNCompleteColumn(),
            TextColumn("steps "),
            TimeElapsedColumn(),
            TextColumn("elapsed "),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=rich_console(),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=trainer.estimated_stepping_batches)
        self._progress.start()
        self._refreshed = 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._refresh(trainer, "training")

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._refresh(trainer, "validating")

    def _refresh(self, trainer: Trainer, description: str) -> None:
        if self._progress and time.monotonic() - self._refreshed >= self.INTERVAL:
            self._refreshed = time.monotonic()
            self._progress.update(
                self._task, completed=trainer.global_step, description=description, refresh=True
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")


def _steps(trainer: Trainer) -> str:
    return f"step {trainer.global_step}/{int(trainer.estimated_stepping_batches)}"
