"""Learning rate schedules: the factor of the learning rate at each optimizer step."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A learning rate schedule: a linear warm-up, then the factors that a subclass defines.

    In step ``k`` (0, 1, …) of the warm-up the factor is (k + 1) / ``warmup_steps``.

    Raises:
        ValueError: if a value is out of range.
    """

    #: Steps over which the learning rate rises linearly to the optimizer's ``lr``.
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {self.warmup_steps}")

    @abstractmethod
    def after_warmup(self, step: int, steps: float) -> float:
        """The factor in ``step`` (0, 1, …) of the ``steps`` steps after the warm-up."""

    def lr_factor(self, step: int, total_steps: float) -> float:
        """The factor of the learning rate in ``step`` (0, 1, …) out of ``total_steps``."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self.after_warmup(step - self.warmup_steps, total_steps - self.warmup_steps)

    def scheduler(self, optimizer: Optimizer, total_steps: float) -> LambdaLR:
        """The scheduler that sets the learning rates; step it after every optimizer step.

        Raises:
            ValueError: if the schedule ends at ``total_steps``, which is infinite.
        """
        return LambdaLR(optimizer, lambda step: self.lr_factor(step, total_steps))

    def on_validation(  # noqa: B027  # most schedules ignore it
        self, scheduler: LambdaLR, value: Tensor | float, mode: Literal["min", "max"]
    ) -> None:
        """Change the schedule by the monitored metric."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The learning rate stays the same after the warm-up."""

    def after_warmup(self, step: int, steps: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(Schedule):
    """Proportional to 1/√step after the warm-up (Vaswani et al. 2017, eq. 3)."""

    warmup_steps: int = 100

    def after_warmup(self, step: int, steps: float) -> float:
        warmup = max(1, self.warmup_steps)
        return math.sqrt(warmup / (warmup + step))


@dataclass(frozen=True, kw_only=True)
class Decay(Schedule):
    """A schedule that decays until the last step of training, to ``min_lr_ratio``."""

    #: The factor in the last step.
    min_lr_ratio: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(f"min_lr_ratio must be in [0, 1], got {self.min_lr_ratio}")

    def after_warmup(self, step: int, steps: float) -> float:
        progress = min(1.0, step / max(1, steps - 1))
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * self.decay(progress)

    @abstractmethod
    def decay(self, progress: float) -> float:
        """From 1 at ``progress`` 0 (the end of the warm-up) to 0 at ``progress`` 1 (the end)."""

    def scheduler(self, optimizer: Optimizer, total_steps: float) -> LambdaLR:
        if math.isinf(total_steps):
            name = type(self).__name__.lower()
            raise ValueError(
                f"scheduler={name} needs an end: set trainer.max_epochs or trainer.max_steps"
            )
        return super().scheduler(optimizer, total_steps)


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """Decays along half a period of a cosine (Loshchilov & Hutter 2017, eq. 5)."""

    def decay(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    """Decays linearly."""

    def decay(self, progress: float) -> float:
        return 1 - progress


@dataclass(frozen=True, kw_only=True)
class WSD(Decay):
    """Warm-up, stable, decay: constant, then a linear decay (Hägele et al. 2024, §3)."""

    #: The part of the steps after the warm-up in which the learning rate decays.
    decay_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction must be in (0, 1], got {self.decay_fraction}")

    def decay(self, progress: float) -> float:
        return min(1.0, (1 - progress) / self.decay_fraction)


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """Multiplied by ``gamma`` every ``step_size`` steps (StepLR, but in optimizer steps)."""

    step_size: int = 1000
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size < 1:
            raise ValueError(f"step_size must be at least 1, got {self.step_size}")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], got {self.gamma}")

    def after_warmup(self, step: int, steps: float) -> float:
        return self.gamma ** (step // self.step_size)


@dataclass(frozen=True, kw_only=True)
class Plateau(Schedule):
    """Multiplied by ``factor`` once validations stop improving (as ReduceLROnPlateau).

    The metric is the one that the data monitors. A new factor applies from the second step after
    the validation.
    """

    #: What the learning rate is multiplied by.
    factor: float = 0.1
    #: Validations without improvement before each reduction.
    patience: int = 10
    #: The smallest relative change that is an improvement.
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < 1:
            raise ValueError(f"factor must be in (0, 1), got {self.factor}")
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, got {self.patience}")
        if self.threshold < 0:
            raise ValueError(f"threshold must be at least 0, got {self.threshold}")

    def after_warmup(self, step: int, steps: float) -> float:
        return 1.0

    def scheduler(self, optimizer: Optimizer, total_steps: float) -> LambdaLR:
        return LambdaLR(optimizer, _Reductions(self.warmup_steps))

    def on_validation(
        self, scheduler: LambdaLR, value: Tensor | float, mode: Literal["min", "max"]
    ) -> None:
        reductions = scheduler.lr_lambdas[0]
        assert isinstance(reductions, _Reductions)
        reductions.update(self, float(value if mode == "min" else -value))


class _Reductions:
    """The factor of Plateau. LambdaLR saves the attributes, which are plain numbers."""

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps
        self.reduction = 1.0
        self.lowest = math.inf
        self.without_improvement = 0

    def __call__(self, step: int) -> float:
        return self.reduction * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def update(self, plateau: Plateau, value: float) -> None:
        margin = plateau.threshold * abs(self.lowest) if math.isfinite(self.lowest) else 0.0
        if value < self.lowest - margin:
            self.lowest, self.without_improvement = value, 0
            return
        self.without_improvement += 1
        if self.without_improvement > plateau.patience:
            self.reduction *= plateau.factor
            self.without_improvement = 0
