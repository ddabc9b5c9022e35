"""A callback that logs the learning rates."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor


class LearningRateMonitorPerStep(LearningRateMonitor):
    """Lightning's ``LearningRateMonitor``, which logs once per step if gradients are accumulated.

    Lightning's own logs the same rates again for each batch of the step.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
