"""A callback that logs the norm of the gradient."""

from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.distributed.tensor import DTensor

from attention_lab.training.tasks.base import AttentionTask


class GradientNorm(Callback):
    """Logs the norm of the gradient, before it is clipped, whenever the training loss is logged.

    The norm is over all parameters together. Where gradients are clipped, it was computed anyway.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning
        if trainer.global_step % interval:
            return
        norm = cast(AttentionTask, pl_module).gradient_norm
        if norm is None:  # without clipping
            norm = nn.utils.get_total_norm(
                [p.grad for p in pl_module.parameters() if p.grad is not None]
            )
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        pl_module.log("train/gradient_norm", norm)
