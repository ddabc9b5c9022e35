"""Stopping a run whose loss, gradient or weights are NaN or infinite."""

import math
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from attention_lab.training.distributed import process_group
from attention_lab.training.lightning_loops import is_accumulating


class Diverged(RuntimeError):
    """A loss, a gradient or a weight is NaN or infinite."""

    run_status = "diverged"


class RequireFinite(Callback):
    """Raises :class:`Diverged` if a loss or the norm of the gradient is NaN or infinite.

    Training is checked every ``log_every_n_steps`` steps, because reading a value waits for the
    device. Validation and test are checked at every batch.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning
        if trainer.global_step % interval == 0 and not is_accumulating(trainer):
            loss = outputs.get("step_loss", outputs["loss"])
            require_finite("training loss", loss, trainer.global_step)
            norm = getattr(pl_module, "gradient_norm", None)
            if norm is not None:
                require_finite("norm of the gradient", norm, trainer.global_step)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        require_finite("validation loss", outputs, trainer.global_step)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        require_finite("test loss", outputs, trainer.global_step)


def require_finite(name: str, value: Tensor, step: int) -> None:
    """Raise Diverged if a scalar is NaN or infinite on any rank (a mean would hide it).

    Collective: all ranks must call it.
    """
    if process_group.any_rank(not torch.isfinite(value)):
        values = process_group.all_gather(value.item())
        first = next(each for each in values if not math.isfinite(each))
        raise Diverged(f"the {name} is {first} at step {step}")


def require_finite_weights(model: nn.Module, step: int) -> None:
    """Raise Diverged if a parameter is NaN or infinite on any rank. Collective."""
    parts = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters())
    largest = torch.stack([part.detach().abs().amax() for part in parts if part.numel()])
    require_finite("largest weight", largest.amax(), step)
