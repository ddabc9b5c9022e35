"""What happened during training: validations, and where the time went."""

import resource
import sys
import time
from typing import NamedTuple, cast

import torch
from lightning import Callback, LightningModule, Trainer

from attention_lab.recording.progress import validation_metrics
from attention_lab.training.objective import Objective


class Validation(NamedTuple):
    """The metrics of one validation."""

    step: int
    metrics: dict[str, float]


class History(Callback):
    """Remembers each validation, times training and validation apart, and logs the speed."""

    def __init__(self) -> None:
        self.validations: list[Validation] = []
        self.validation_seconds = 0.0
        #: Of the GPU's tensors, or on the CPU of the whole process. Set when training ends.
        self.peak_memory_bytes = 0
        self._fit_seconds = self._fit_started = self._validation_started = 0.0

    @property
    def training_seconds(self) -> float:
        """Time spent in training so far, without validation."""
        return self._fit_seconds - self.validation_seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._fit_started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tokens = int(cast(Objective, pl_module).tokens)  # waits for the device, so before the clock
        self._validation_started = time.perf_counter()
        self._fit_seconds = self._validation_started - self._fit_started
        speed = {"train/tokens_per_second": tokens / self.training_seconds}
        for logger in trainer.loggers:
            logger.log_metrics(speed, step=trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validations.append(Validation(trainer.global_step, validation_metrics(trainer)))
        self.validation_seconds += time.perf_counter() - self._validation_started

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit_seconds = time.perf_counter() - self._fit_started
        self.peak_memory_bytes = _peak_memory(pl_module.device)

    def best(self, monitor: str, mode: str) -> Validation:
        """The validation with the best value of a metric; of equals the first."""
        choose = min if mode == "min" else max
        return choose(self.validations, key=lambda validation: validation.metrics[monitor])

    def steps_to(self, threshold: float, monitor: str, mode: str) -> int | None:
        """Optimizer steps until a metric was first better than a threshold; None if never."""
        for step, metrics in self.validations:
            value = metrics[monitor]
            if value < threshold if mode == "min" else value > threshold:
                return step
        return None


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's tensors, or on the CPU of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
