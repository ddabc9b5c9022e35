"""A callback that logs the norm of the gradient."""

from typing import cast

from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from attention_lab.training.tasks.base import AttentionTask


class GradientNorm(Callback):
    """Logs the norm of a step's gradient, before it is clipped, when the training loss is logged.

    The norm is over all parameters together.
    """

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if cast(AttentionTask, pl_module).is_step_logged():
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            pl_module.log("train/gradient_norm", norm)
