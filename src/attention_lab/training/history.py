"""What happened during training: validations, and where the time went."""

import math
import resource
import sys
import time
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from lightning import Callback, LightningModule, Trainer

from attention_lab.tracking.progress import validation_metrics
from attention_lab.training.tasks.base import AttentionTask

_KEPT = ("training_seconds", "validation_seconds", "peak_memory_bytes")


class Validation(NamedTuple):
    """The metrics of one validation."""

    step: int
    metrics: dict[str, float]


class History(Callback):
    """Remembers each validation, times training and validation apart, and logs the speed.

    A run that was interrupted has the times of all its processes, without what was lost: the time
    from the last checkpoint to the interruption.
    """

    def __init__(self) -> None:
        self.validations: list[Validation] = []
        #: Time spent in training so far, without validation.
        self.training_seconds = 0.0
        self.validation_seconds = 0.0
        #: Of the GPU's tensors, or on the CPU of the whole process, up to the last validation.
        self.peak_memory_bytes = 0
        self._earlier_seconds = 0.0
        self._created = self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since this was created, in every process."""
        return self._earlier_seconds + time.perf_counter() - self._created

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tokens = int(
            cast(AttentionTask, pl_module).tokens
        )  # waits for the device, so before the clock
        self.training_seconds += self._lap()
        speed = {"train/tokens_per_second": tokens / self.training_seconds}
        for logger in trainer.loggers:
            logger.log_metrics(speed, step=trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validations.append(Validation(trainer.global_step, validation_metrics(trainer)))
        self.peak_memory_bytes = max(self.peak_memory_bytes, _peak_memory(pl_module.device))
        self.validation_seconds += self._lap()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training_seconds += self._lap()

    def _lap(self) -> float:
        """Seconds since the last lap."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def state_dict(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in _KEPT}
        kept["training_seconds"] += time.perf_counter() - self._since  # of a lap that goes on
        return kept | {"seconds": self.seconds, "validations": list(map(list, self.validations))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in _KEPT:
            setattr(self, name, state_dict[name])
        self._earlier_seconds = state_dict["seconds"]
        self.validations = [Validation(*validation) for validation in state_dict["validations"]]

    def best(self, monitor: str, mode: str) -> Validation:
        """The validation with the best value of a metric; of equals the first, NaN is worst."""

        def rank(validation: Validation) -> float:
            value = validation.metrics[monitor]
            return math.inf if math.isnan(value) else value if mode == "min" else -value

        return min(self.validations, key=rank)

    def area_under_curve(self, monitor: str) -> float:
        """The mean of a validation metric over the steps from the first validation to the last.

        That is the area under its learning curve, by the trapezoid rule, divided by the range of
        steps: in the metric's own unit, and better the sooner the metric gets good. With a single
        validation it is its value.
        """
        points = [(step, metrics[monitor]) for step, metrics in self.validations]
        (first, value), (last, _) = points[0], points[-1]
        area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
        return area / (last - first) if last > first else value

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
