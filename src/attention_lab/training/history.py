"""The history of a training: its validations, their metrics, and the time spent."""

import math
import resource
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from lightning import Callback, LightningModule, Trainer

from attention_lab.tracking.progress import validation_metrics
from attention_lab.tracking.wandb_summary import log_summary
from attention_lab.training.tasks.base import AttentionTask

_SAVED = ("training_seconds", "validation_seconds", "peak_memory_bytes")


class Validation(NamedTuple):
    """The metrics of one validation."""

    step: int
    metrics: dict[str, float]


class History(Callback):
    """Records each validation, measures the time of training and validation, and logs the costs.

    Each validation updates the summary of the W&B run, if there is one, with the best metrics.

    The times of a resumed run include its interrupted processes, each up to its last checkpoint.
    """

    def __init__(self) -> None:
        self.validations: list[Validation] = []
        #: Seconds of training so far, without validation.
        self.training_seconds = 0.0
        self.validation_seconds = 0.0
        #: Bytes, up to the last validation: see :func:`_peak_memory`.
        self.peak_memory_bytes = 0
        self._earlier_seconds = 0.0
        self._created = self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since this was created, summed over all processes of a resumed run."""
        return self._earlier_seconds + time.perf_counter() - self._created

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Reading the count waits for the device. This wait is part of the training time.
        tokens = int(cast(AttentionTask, pl_module).tokens)
        self.training_seconds += self._lap()
        costs = {
            "cost/tokens_per_second": tokens / self.training_seconds,
            "cost/peak_memory_bytes": max(self.peak_memory_bytes, _peak_memory(pl_module.device)),
            "cost/training_seconds": self.training_seconds,
        }
        for logger in trainer.loggers:
            logger.log_metrics(costs, step=trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validations.append(Validation(trainer.global_step, validation_metrics(trainer)))
        self.peak_memory_bytes = max(self.peak_memory_bytes, _peak_memory(pl_module.device))
        data = cast(AttentionTask, pl_module).data
        best = self.best(f"validation/{data.monitor}", data.mode)
        result = {"validation": without_prefix(best.metrics), "best_step": best.step}
        log_summary(trainer.loggers, result)
        self.validation_seconds += self._lap()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training_seconds += self._lap()

    def _lap(self) -> float:
        """Seconds since the last lap."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in _SAVED}
        state["training_seconds"] += time.perf_counter() - self._since  # the current lap
        return state | {"seconds": self.seconds, "validations": list(map(list, self.validations))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in _SAVED:
            setattr(self, name, state_dict[name])
        self._earlier_seconds = state_dict["seconds"]
        self.validations = [Validation(*validation) for validation in state_dict["validations"]]

    def best(self, monitor: str, mode: str) -> Validation:
        """The first validation with the best value of a metric; NaN counts as the worst."""

        def rank(validation: Validation) -> float:
            value = validation.metrics[monitor]
            return math.inf if math.isnan(value) else value if mode == "min" else -value

        return min(self.validations, key=rank)

    def area_under_curve(self, monitor: str) -> float:
        """The mean of a validation metric over the steps from the first validation to the last.

        It is the area under the learning curve, by the trapezoid rule, divided by the range of
        steps. Its unit is the metric's, and it is better if the metric improves earlier. With a
        single validation it is the value of that validation.
        """
        points = [(step, metrics[monitor]) for step, metrics in self.validations]
        (first, value), (last, _) = points[0], points[-1]
        area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
        return area / (last - first) if last > first else value

    def steps_to(self, threshold: float, monitor: str, mode: str) -> int | None:
        """The step of the first validation better than a threshold; None if there is none."""
        for step, metrics in self.validations:
            value = metrics[monitor]
            if value < threshold if mode == "min" else value > threshold:
                return step
        return None


def without_prefix(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a validation by name."""
    return {name.removeprefix("validation/"): value for name, value in metrics.items()}


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the tensors on a GPU, or of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
