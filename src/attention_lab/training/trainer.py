"""The Lightning Trainer of a run: budget, device and intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from attention_lab.printing import counted
from attention_lab.training.checkpoint.callback import AtomicCheckpointIO
from attention_lab.training.compilation import CompileLoss, check_arguments
from attention_lab.training.distributed import process_group
from attention_lab.training.finite import RequireFinite
from attention_lab.training.lightning_loops import (
    EnterTrainingLoop,
    InspectHooksOnce,
    ValidateAtLastStep,
    ValidateBetweenSteps,
)
from attention_lab.training.optim import total_steps
from attention_lab.training.strategies import check_strategy_options, make_profiler, make_strategy

#: Lightning's short spellings of ``precision``.
PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
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
    #: Lightning's "auto" and "ddp_find_unused_parameters_true" are DDP, too; the latter searches
    #: for unused parameters in each step, which our models do not need.
    strategy: Literal["ddp", "fsdp", "auto", "ddp_find_unused_parameters_true"] = "ddp"
    #: Options of ``DistributedDataParallel``, such as ``{bucket_cap_mb: 50}``; None means ours.
    strategy_options: dict[str, bool | int | float] | None = None
    #: "32-true"; mixed precision: "bf16-mixed", "16-mixed"; or all weights in another type.
    #: Lightning's short spellings become the long ones: 16 is "16-mixed".
    precision: (
        Literal["32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true"]
        | Literal["32", "bf16", "16", "64", 32, 16, 64]
    ) = "32-true"
    #: Whether batch norms use the statistics of all processes; our models have no batch norm.
    sync_batchnorm: bool = False
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
    #: Epochs and steps before which early stopping does not stop.
    min_epochs: int | None = None
    min_steps: int | None = None
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
    #: Whether the test uses ``torch.inference_mode`` or ``torch.no_grad``.
    inference_mode: bool = True
    #: Batches per process to train on in each epoch, and to validate and test on: a number, or a
    #: float for a fraction. The run is then a debug run, which reports leave out.
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    #: Train on the same batches in every epoch, and validate on as many; 0 means all batches.
    overfit_batches: int | float = 0
    #: Train, validate and test on so many batches (true: 1), and record nothing.
    fast_dev_run: int | bool = False

    def __post_init__(self) -> None:
        precision: Any = PRECISIONS.get(str(self.precision), self.precision)
        object.__setattr__(self, "precision", precision)  # the class is frozen
        for name in (
            *("devices", "num_nodes", "max_epochs", "max_steps"),
            *("check_val_every_n_epoch", "log_every_n_steps", "every_n_train_steps"),
            *("accumulate_grad_batches", "min_epochs", "min_steps"),
        ):
            value = getattr(self, name)
            has_no_limit = value is None or (value == -1 and name.startswith("max_"))
            if not has_no_limit and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.limits == (-1, -1):
            raise ValueError("max_epochs=-1 never ends; set max_steps, too")
        if self.strategy == "fsdp" and self.precision not in ("32-true", "bf16-mixed"):
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
        if self.strategy_options:
            check_strategy_options(
                self.strategy, self.strategy_options, self.accumulate_grad_batches > 1
            )
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise ValueError(f"gradient_clip_val must be above 0, got {self.gradient_clip_val}")
        if self.fast_dev_run < 0:
            raise ValueError(f"fast_dev_run must be at least 0, got {self.fast_dev_run}")
        self._check_validation_interval()
        for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
            _check_limit(name, getattr(self, name))
        _check_limit("overfit_batches", self.overfit_batches or None)

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
        if self.fast_dev_run:
            return 1, int(self.fast_dev_run)
        steps = -1 if self.max_steps is None else self.max_steps
        if self.max_epochs is not None:
            return self.max_epochs, steps
        return (DEFAULT_EPOCHS, -1) if steps == -1 else (-1, steps)

    def length(self, batches_per_epoch: int) -> tuple[int, int]:
        """The optimizer steps of the training, and those of an epoch.

        >>> TrainerOptions(max_epochs=2, accumulate_grad_batches=4).length(80)
        (40, 20)
        """
        batches = limited_batches(
            batches_per_epoch, self.overfit_batches or self.limit_train_batches
        )
        steps_per_epoch = math.ceil(batches / self.accumulate_grad_batches)
        return int(total_steps(*self.limits, steps_per_epoch)), steps_per_epoch

    def budget(self, batches_per_epoch: int, may_stop_early: bool = False) -> str:
        """Describe the length of training in steps and epochs, and the limit that ends it.

        >>> TrainerOptions(max_steps=300).budget(80)
        '300 steps (3.75 epochs of 80 steps)'
        >>> TrainerOptions(max_steps=300, accumulate_grad_batches=4).budget(80)
        '300 steps of 4 batches (15 epochs of 20 steps)'
        >>> TrainerOptions(max_epochs=1, max_steps=300).budget(80, may_stop_early=True)
        'at most 80 steps (1 epoch of 80 steps): trainer.max_epochs=1 comes before max_steps=300'
        >>> TrainerOptions(max_steps=1).budget(1)
        '1 step (1 epoch of 1 step)'
        """
        epochs, steps = self.limits
        total, steps_per_epoch = self.length(batches_per_epoch)
        passes = total / steps_per_epoch
        number = self.accumulate_grad_batches
        line = f"{counted(total, 'step')}{f' of {number} batches' if number > 1 else ''}"
        epoch = f"epoch{'' if passes == 1 else 's'} of {counted(steps_per_epoch, 'step')}"
        line += f" ({passes:.4g} {epoch})"
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
            strategy=make_strategy(
                self.strategy,
                self.devices * self.num_nodes,
                self.accumulate_grad_batches > 1,
                self.strategy_options or {},
            ),
            precision=self.precision,
            deterministic=self.deterministic,
            benchmark=self.benchmark,
            detect_anomaly=self.detect_anomaly,
            profiler=None if self.fast_dev_run else make_profiler(self.profiler, directory),
            sync_batchnorm=self.sync_batchnorm,
            max_epochs=max_epochs,
            max_steps=max_steps,
            min_epochs=self.min_epochs,
            min_steps=self.min_steps,
            # Not overfit_batches: Lightning would replace the sampler, which forms the batches.
            limit_train_batches=self.overfit_batches or self.limit_train_batches,
            limit_val_batches=self.overfit_batches or self.limit_val_batches,
            fast_dev_run=self.fast_dev_run,
            accumulate_grad_batches=self.accumulate_grad_batches,
            gradient_clip_val=self.gradient_clip_val,
            gradient_clip_algorithm=self.gradient_clip_algorithm,
            val_check_interval=self.val_check_interval,
            check_val_every_n_epoch=None if across_epochs else self.check_val_every_n_epoch,
            log_every_n_steps=self.log_every_n_steps,
            callbacks=[
                InspectHooksOnce(),
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
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            # False if no callback is a progress bar: Lightning would add its own.
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        )

    def _compilation(self) -> list[Callback]:
        if self.compile is False:
            return []
        return [CompileLoss(self.compile if isinstance(self.compile, dict) else {})]


def limited_batches(batches: int, limit: int | float | None) -> int:
    """The number of batches within one of Lightning's limits; 0 and None mean no limit.

    >>> limited_batches(80, 10), limited_batches(80, 0.25), limited_batches(80, None)
    (10, 20, 80)
    """
    if not limit:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _check_limit(name: str, limit: int | float | None) -> None:
    if limit is None or (limit >= 1 if isinstance(limit, int) else 0 < limit <= 1):
        return
    raise ValueError(f"{name} must be at least 1 batch, or a fraction such as 0.1; got {limit}")
