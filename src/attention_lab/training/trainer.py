"""How long and on what to train: the Lightning Trainer of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from attention_lab.training import ranks
from attention_lab.training.checkpointing import AtomicCheckpointIO


class ValidateAtLastStep(Callback):
    """Makes Lightning validate (and so checkpoint) after the last step, also within an epoch."""

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._last_step = trainer.estimated_stepping_batches  # too slow to ask at every step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # A request to stop is what makes it validate before it would otherwise be due.
        trainer.should_stop |= trainer.global_step == self._last_step


@dataclass(frozen=True)
class TrainerOptions:
    """The training budget, the device, and how often to look.

    Raises:
        ValueError: if a value is out of range.
    """

    #: "auto", "cpu" or "gpu".
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    #: Processes on each machine, with a device each. Each has batches of its own, of the data's
    #: batch size, so that many processes together take a batch that is as many times as large.
    devices: int = 1
    #: Machines.
    num_nodes: int = 1
    #: What each of several processes holds: "ddp" the whole model, "fsdp" its share of it, of its
    #: gradients and its optimizer's state, so that training needs less memory, but more talk.
    strategy: Literal["ddp", "fsdp"] = "ddp"
    #: "32-true", or mixed precision: "bf16-mixed", "16-mixed".
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    #: Passes over the training data.
    max_epochs: int = 10
    #: Optimizer steps, if that is less; None means no limit of its own.
    max_steps: int | None = None
    #: Largest norm of the gradient; None means no clipping.
    gradient_clip: float | None = 1.0
    #: Epochs from one validation to the next, in fractions if need be; the last step always is
    #: followed by one.
    validate_every: float = 1.0
    #: Steps from one checkpoint between validations to the next; None means at validations only.
    checkpoint_every: int | None = None
    #: Steps from one logged training loss to the next.
    log_every: int = 20
    #: Validations without improvement after which to stop; None means never.
    patience: int | None = None
    #: Whether to show a progress bar (in a terminal only).
    progress: bool = True

    def __post_init__(self) -> None:
        for name in (
            *("devices", "num_nodes", "max_epochs", "max_steps"),
            *("log_every", "patience", "checkpoint_every"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            raise ValueError("strategy=fsdp goes with precision 32-true or bf16-mixed")
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise ValueError(f"gradient_clip must be above 0, got {self.gradient_clip}")
        if self.validate_every <= 0:
            raise ValueError(f"validate_every must be above 0, got {self.validate_every}")

    def trainer(
        self,
        directory: Path,
        monitor: str,
        mode: Literal["min", "max"],
        steps_per_epoch: int,
        callbacks: Sequence[Callback],
        loggers: Sequence[Logger],
    ) -> Trainer:
        """A Trainer that keeps its files in ``directory`` and stops early by ``monitor``."""
        early_stopping = (
            [EarlyStopping(monitor, mode=mode, patience=self.patience)] if self.patience else []
        )
        return Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=self._strategy(),
            precision=self.precision,
            max_epochs=self.max_epochs,
            max_steps=-1 if self.max_steps is None else self.max_steps,
            gradient_clip_val=self.gradient_clip,
            val_check_interval=max(1, round(self.validate_every * steps_per_epoch)),
            check_val_every_n_epoch=None,  # the interval counts steps, across epochs
            log_every_n_steps=self.log_every,
            callbacks=[
                *callbacks,
                ValidateAtLastStep(),
                *early_stopping,
            ],
            logger=list(loggers),
            plugins=[AtomicCheckpointIO(), ranks.environment()],
            default_root_dir=directory,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            # A bar, in a terminal, is among the callbacks; no other is wanted.
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        )

    def _strategy(self) -> Strategy | Literal["auto"]:
        if not ranks.are_many():
            return "auto"
        if self.strategy == "fsdp":
            processes = self.devices * self.num_nodes
            return ModelParallelStrategy(processes, 1, save_distributed_checkpoint=False)
        return DDPStrategy(
            broadcast_buffers=False,  # nothing in a model's buffers changes in training
            gradient_as_bucket_view=True,
            static_graph=True,  # parameters that get no gradient, as without attention, never do
        )
