"""The Lightning Trainer of a run: budget, device and intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from attention_lab.training.checkpoint.callback import AtomicCheckpointIO
from attention_lab.training.compilation import CompileLoss, check_arguments
from attention_lab.training.distributed import process_group
from attention_lab.training.finite import RequireFinite
from attention_lab.training.lightning_loops import (
    EnterTrainingLoop,
    ValidateAtLastStep,
    ValidateBetweenSteps,
)
from attention_lab.training.optim import total_steps

#: Epochs if no limit is set.
DEFAULT_EPOCHS = 10


@dataclass(frozen=True)
class TrainerOptions:
    """The training budget, the devices, and the intervals of validation and logging.

    Raises:
        ValueError: if a value is out of range.
    """

    #: "auto", "cpu" or "gpu".
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    #: Processes on each machine, one per device. ``data.batch_size`` is per process, so the
    #: effective batch grows with their number.
    devices: int = 1
    #: Machines.
    num_nodes: int = 1
    #: "ddp": each process holds the whole model. "fsdp": each holds a shard of parameters,
    #: gradients and optimizer state, which takes less memory and more communication.
    strategy: Literal["ddp", "fsdp"] = "ddp"
    #: "32-true", or mixed precision: "bf16-mixed", "16-mixed".
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    #: Whether to use deterministic kernels only, so that results on a GPU are reproducible. "warn"
    #: allows operations without such a kernel, with a warning.
    deterministic: bool | Literal["warn"] = False
    #: Whether cuDNN times its kernels and picks the fastest; None means PyTorch's setting.
    benchmark: bool | None = None
    #: Whether to compile the training loss with ``torch.compile``, or its arguments, such as
    #: ``{mode: max-autotune}``. Without a compiler, a run trains uncompiled.
    compile: bool | dict[str, str | bool] = False
    #: Whether layers compute their activations again in the backward pass instead of keeping them:
    #: less memory, more time, the same results.
    gradient_checkpointing: bool = False
    #: Whether autograd reports the operation whose gradient is NaN; slow, for debugging.
    detect_anomaly: bool = False
    #: Lightning's profiler, which writes ``*profile*`` files into the run's directory.
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    #: Epochs; -1 means no limit. None means 10, or no limit if ``max_steps`` is set.
    max_epochs: int | None = None
    #: Optimizer steps; None or -1 means no limit. Training ends at the first limit it reaches.
    max_steps: int | None = None
    #: Batches of an optimizer step, whose gradients are summed: less memory than one large batch.
    #: A step is then on devices x num_nodes x ``accumulate_grad_batches`` batches.
    accumulate_grad_batches: int = 1
    #: Largest norm (or value) of the gradient; None means no clipping.
    gradient_clip_val: float | None = 1.0
    #: "norm": of all gradients together; "value": of each element.
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    #: How often to validate: a float is a fraction of an epoch; an integer is a number of batches,
    #: counted across epochs. A validation comes after the optimizer step of the batch, and always
    #: after the last step.
    val_check_interval: float | int = 1.0
    #: Validate in every n-th epoch only; not with an integer ``val_check_interval``.
    check_val_every_n_epoch: int = 1
    #: Steps between checkpoints, besides those at each validation; None means no others.
    every_n_train_steps: int | None = None
    #: Steps between logged training losses.
    log_every_n_steps: int = 20
    #: Whether to show a progress bar (in a terminal only).
    enable_progress_bar: bool = True

    def __post_init__(self) -> None:
        for name in (
            *("devices", "num_nodes", "max_epochs", "max_steps"),
            *("check_val_every_n_epoch", "log_every_n_steps", "every_n_train_steps"),
            "accumulate_grad_batches",
        ):
            value = getattr(self, name)
            has_no_limit = value is None or (value == -1 and name.startswith("max_"))
            if not has_no_limit and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.limits == (-1, -1):
            raise ValueError("max_epochs=-1 never ends; set max_steps, too")
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            raise ValueError("strategy=fsdp needs precision 32-true or bf16-mixed")
        if self.strategy == "fsdp" and self.compile is not False:
            raise ValueError("compile must be false with strategy=fsdp: it recompiles at each step")
        if self.gradient_checkpointing and self.compile is not False:
            raise ValueError(
                "gradient_checkpointing must be false with compile, which chooses itself what the "
                "backward pass computes again"
            )
        if isinstance(self.compile, dict):
            check_arguments(self.compile)
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise ValueError(f"gradient_clip_val must be above 0, got {self.gradient_clip_val}")
        self._check_validation_interval()

    def _check_validation_interval(self) -> None:
        interval = self.val_check_interval
        if isinstance(interval, int):
            if interval < 1:
                raise ValueError(f"val_check_interval must be at least 1 batch, got {interval}")
            if self.check_val_every_n_epoch != 1:
                raise ValueError(
                    f"val_check_interval={interval} counts batches across epochs; "
                    f"remove check_val_every_n_epoch={self.check_val_every_n_epoch}"
                )
        elif not 0 < interval <= 1:
            raise ValueError(
                f"val_check_interval={interval} is a float, so a fraction of an epoch, above 0 "
                "and at most 1; use check_val_every_n_epoch for more than one epoch"
            )

    @property
    def limits(self) -> tuple[int, int]:
        """Lightning's ``max_epochs`` and ``max_steps``, where -1 means no limit."""
        steps = -1 if self.max_steps is None else self.max_steps
        if self.max_epochs is not None:
            return self.max_epochs, steps
        return (DEFAULT_EPOCHS, -1) if steps == -1 else (-1, steps)

    def budget(self, batches_per_epoch: int, may_stop_early: bool = False) -> str:
        """Describe the length of training in steps and epochs, and the limit that ends it.

        >>> TrainerOptions(max_steps=300).budget(80)
        '300 steps (3.75 epochs of 80 steps)'
        >>> TrainerOptions(max_steps=300, accumulate_grad_batches=4).budget(80)
        '300 steps of 4 batches (15 epochs of 20 steps)'
        >>> TrainerOptions(max_epochs=1, max_steps=300).budget(80, may_stop_early=True)
        'at most 80 steps (1 epoch of 80 steps): trainer.max_epochs=1 comes before max_steps=300'
        """
        epochs, steps = self.limits
        steps_per_epoch = math.ceil(batches_per_epoch / self.accumulate_grad_batches)
        total = int(total_steps(epochs, steps, steps_per_epoch))
        passes = total / steps_per_epoch
        number = self.accumulate_grad_batches
        line = f"{total} steps{f' of {number} batches' if number > 1 else ''}"
        line += f" ({passes:.4g} epoch{'' if passes == 1 else 's'} of {steps_per_epoch} steps)"
        line = f"{'at most ' if may_stop_early else ''}{line}"
        if -1 in (epochs, steps) or epochs * steps_per_epoch == steps:
            return line
        first, second = f"max_epochs={epochs}", f"max_steps={steps}"
        if total == steps:
            first, second = second, first
        return f"{line}: trainer.{first} comes before {second}"

    def trainer(
        self, directory: Path, callbacks: Sequence[Callback], loggers: Sequence[Logger]
    ) -> Trainer:
        """The Trainer, which writes to ``directory``."""
        max_epochs, max_steps = self.limits
        across_epochs = isinstance(self.val_check_interval, int)
        return Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=self._strategy(),
            precision=self.precision,
            deterministic=self.deterministic,
            benchmark=self.benchmark,
            detect_anomaly=self.detect_anomaly,
            profiler=self._profiler(directory),
            max_epochs=max_epochs,
            max_steps=max_steps,
            accumulate_grad_batches=self.accumulate_grad_batches,
            gradient_clip_val=self.gradient_clip_val,
            gradient_clip_algorithm=self.gradient_clip_algorithm,
            val_check_interval=self.val_check_interval,
            check_val_every_n_epoch=None if across_epochs else self.check_val_every_n_epoch,
            log_every_n_steps=self.log_every_n_steps,
            callbacks=[
                EnterTrainingLoop(),
                RequireFinite(),
                *self._compilation(),
                *callbacks,
                ValidateAtLastStep(),
                *([ValidateBetweenSteps()] if self.accumulate_grad_batches > 1 else []),
            ],
            logger=list(loggers),
            plugins=[AtomicCheckpointIO(), process_group.lightning_environment()],
            default_root_dir=directory,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            # False if no callback is a progress bar: Lightning would add its own.
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        )

    def _compilation(self) -> list[Callback]:
        if self.compile is False:
            return []
        return [CompileLoss(self.compile if isinstance(self.compile, dict) else {})]

    def _profiler(self, directory: Path) -> Profiler | None:
        kinds: dict[str, type[Profiler]] = {
            "simple": SimpleProfiler,
            "advanced": AdvancedProfiler,
            "pytorch": PyTorchProfiler,
        }
        return kinds[self.profiler](directory, "profile") if self.profiler else None

    def _strategy(self) -> Strategy | Literal["auto"]:
        if not process_group.is_distributed():
            return "auto"
        if self.strategy == "fsdp":
            processes = self.devices * self.num_nodes
            return ModelParallelStrategy(processes, 1, save_distributed_checkpoint=False)
        accumulates = self.accumulate_grad_batches > 1
        return DDPStrategy(
            broadcast_buffers=False,  # training changes no buffers
            gradient_as_bucket_view=True,
            # Parameters without gradients (attention=none) never get one. A static graph is faster,
            # but it fails where accumulated batches are not synchronized.
            static_graph=not accumulates,
            find_unused_parameters=accumulates,
        )
