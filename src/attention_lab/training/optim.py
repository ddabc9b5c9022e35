"""The optimizer, its parameter groups, and the learning rate at each step."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn


def total_steps(max_epochs: int, max_steps: int, steps_per_epoch: int) -> float:
    """The optimizer steps of a training, from Lightning's limits, where -1 means no limit.

    >>> total_steps(10, -1, 80), total_steps(-1, 3000, 80), total_steps(10, 3000, 80)
    (800, 3000, 800)
    """
    by_epochs = math.inf if max_epochs == -1 else max_epochs * steps_per_epoch
    return by_epochs if max_steps == -1 else min(by_epochs, max_steps)


@dataclass(frozen=True)
class OptimizerOptions:
    """Options of AdamW (Loshchilov & Hutter 2019), with warm-up and a learning rate schedule.

    With ``weight_decay=0`` it is Adam.

    Raises:
        ValueError: if a value is out of range.
    """

    #: Peak learning rate.
    lr: float = 1e-3
    #: Decoupled weight decay. Biases and norms (parameters of one dimension) are not decayed.
    weight_decay: float = 0.01
    #: Decay rates of the first and second moment.
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    #: Steps over which the learning rate rises linearly from lr / warmup_steps to lr.
    warmup_steps: int = 100
    #: After warm-up: "cosine", down to final_fraction · lr at the last step, or "constant".
    schedule: Literal["cosine", "constant"] = "cosine"
    #: Learning rate at the end of the cosine, as a fraction of lr.
    final_fraction: float = 0.05

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {list(self.betas)}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {self.warmup_steps}")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule must be cosine or constant, got {self.schedule!r}")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction must be in [0, 1], got {self.final_fraction}")

    def learning_rate(self, step: int, total_steps: float) -> float:
        """The learning rate of optimizer step ``step`` (0, 1, …) out of ``total_steps``.

        Warm-up: lr · (step + 1) / warmup_steps. Cosine (Loshchilov & Hutter 2017, eq. 5, one
        period): lr · (f + (1 − f) · ½ (1 + cos πp)), where p goes from 0 at the end of the warm-up
        to 1 at the last step and f is ``final_fraction``.
        """
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        steps_after_warmup = max(1, total_steps - 1 - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / steps_after_warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * (self.final_fraction + (1 - self.final_fraction) * cosine)

    def optimizer(self, model: nn.Module, fused: bool = True) -> torch.optim.Optimizer:
        """AdamW over the model's parameters, without weight decay for those of one dimension.

        Args:
            model: the model to train.
            fused: whether to use the fused kernel, which is faster, above all for small models.
                It cannot be used with precision 16-mixed: it unscales gradients in its step, but
                they must be unscaled before they are clipped.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        first, second = self.betas
        return torch.optim.AdamW(groups, lr=self.lr, betas=(first, second), fused=fused)

    def scheduler(
        self, optimizer: torch.optim.Optimizer, total_steps: float
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """The scheduler that sets :meth:`learning_rate`; step it after every optimizer step.

        Raises:
            ValueError: if the schedule is cosine and ``total_steps`` is infinite.
        """
        if self.schedule == "cosine" and math.isinf(total_steps):
            raise ValueError("schedule=cosine needs an end: set max_epochs or max_steps")
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.learning_rate(step, total_steps) / self.lr
        )
