"""Callbacks that average the weights over training, and evaluate and save the average."""

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.nn import Module
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from attention_lab.printing import echo

#: The part of training after which SWA starts by default.
SWA_START = 0.75


class AveragedWeights(WeightAveraging, ABC):
    """The base class of callbacks that average the weights of the model.

    Training uses the latest weights. From the first update on, validations, attention maps, the
    test and later evaluations use the average. Checkpoints hold it as ``state_dict``, and the
    latest weights beside it, so that a run can be resumed.

    Lightning's class would copy the dataset with the task, evaluate the initial weights until the
    first update, and swap the two sets of weights in a checkpoint that a validation is interrupted
    for.

    Args:
        options: arguments of :class:`torch.optim.swa_utils.AveragedModel`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(use_buffers=False, **options)
        self._has_average_in_model = False

    @property
    def average(self) -> AveragedModel:
        """The averaged model."""
        assert self._average_model is not None
        return self._average_model

    @property
    @abstractmethod
    def description(self) -> str:
        """The average in a few words, for the line at the start of training."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            device = trainer.strategy.root_device
            self._average_model = AveragedModel(_model(pl_module), device, **self._kwargs)
            # On the CPU, so that updates never wait for the device to read it.
            self.average.n_averaged = self.average.n_averaged.cpu()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            echo(
                f"{self.description}: it is validated, tested and saved; training continues with "
                "the latest weights"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: no average is updated after an epoch."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: the test loads the best checkpoint."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average.n_averaged > 0:
            self._swap_models(_model(pl_module))
            self._has_average_in_model = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: attention maps, which are drawn after this, use the average, too."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._has_average_in_model:
            self._swap_models(_model(pl_module))
            self._has_average_in_model = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        in_average = _named(self.average.module.state_dict())
        in_model = {name: checkpoint["state_dict"][name] for name in in_average}
        if self._has_average_in_model:  # an interrupted validation
            in_model, in_average = in_average, in_model
        is_averaged = bool(self.average.n_averaged > 0)
        checkpoint["state_dict"] |= in_average if is_averaged else in_model
        checkpoint["latest_weights"] = in_model

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Lightning has loaded the average into the model.
        self.average.module.load_state_dict(_model(pl_module).state_dict())
        # An extended run may have been trained without an average.
        latest = checkpoint.get("latest_weights", {})
        pl_module.load_state_dict(checkpoint["state_dict"] | latest)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"n_averaged": int(self.average.n_averaged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.average.n_averaged.fill_(state_dict["n_averaged"])


class StepAverage(AveragedWeights):
    """The base class of averages that are updated after training steps.

    Args:
        update_every_n_steps: steps between updates of the average.
        update_starting_at_step: the first step (from 0) whose weights are averaged. None means
            after three quarters of the steps.
        options: arguments of :class:`torch.optim.swa_utils.AveragedModel`.
    """

    def __init__(
        self, update_every_n_steps: int, update_starting_at_step: int | None, **options: Any
    ) -> None:
        if update_every_n_steps < 1:
            raise ValueError(f"update_every_n_steps must be at least 1, got {update_every_n_steps}")
        if update_starting_at_step is not None and update_starting_at_step < 0:
            raise ValueError(
                f"update_starting_at_step must be at least 0, got {update_starting_at_step}"
            )
        super().__init__(**options)
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        assert self.update_starting_at_step is not None
        return (
            step_idx is not None
            and step_idx >= self.update_starting_at_step
            and step_idx % self.update_every_n_steps == 0
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.update_starting_at_step is None:
            self.update_starting_at_step = int(SWA_START * trainer.estimated_stepping_batches)
        if trainer.global_step <= self.update_starting_at_step:
            self.average.n_averaged.zero_()  # of the shorter run that this one extends
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any, **named: Any
    ) -> None:
        super().on_train_batch_end(trainer, _model(pl_module), *batch, **named)


class EMA(StepAverage):
    """An exponential moving average of the weights: average ← decay · average + (1 - decay) · new.

    The first update copies the weights, so there is no bias to correct (cf. Kingma and Ba 2015,
    §7.2).

    Args:
        decay: at least 0 and below 1.
        update_every_n_steps: steps between updates of the average.
        update_starting_at_step: the first step (from 0) whose weights are averaged.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int = 0,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        update = get_ema_multi_avg_fn(decay)
        super().__init__(update_every_n_steps, update_starting_at_step, multi_avg_fn=update)
        self.decay = decay

    @property
    def description(self) -> str:
        return (
            f"exponential moving average of the weights (decay {self.decay}), from step "
            f"{self.update_starting_at_step} on"
        )


class SWA(StepAverage):
    """The mean of the weights after each of the last steps (Izmailov et al. 2018).

    The paper keeps a constant or cyclic learning rate while it averages; ``scheduler`` sets it.

    Args:
        update_every_n_steps: steps between updates of the average.
        update_starting_at_step: the first step (from 0) whose weights are averaged. None means
            after three quarters of the steps.
    """

    def __init__(
        self, update_every_n_steps: int = 1, update_starting_at_step: int | None = None
    ) -> None:
        update = get_swa_multi_avg_fn()
        super().__init__(update_every_n_steps, update_starting_at_step, multi_avg_fn=update)

    @property
    def description(self) -> str:
        return f"mean of the weights, from step {self.update_starting_at_step} on"


class CheckpointAverage(AveragedWeights):
    """The mean of the weights at the last validations (Vaswani et al. 2017, §6.1).

    A validation evaluates the mean of the weights at this validation and at the ones before it, so
    the best checkpoint is the best of these means. The weights are kept on the CPU, and in the
    checkpoints.

    Args:
        num_checkpoints: the validations whose weights are averaged; all if there were fewer.
    """

    def __init__(self, num_checkpoints: int = 5) -> None:
        if num_checkpoints < 1:
            raise ValueError(f"num_checkpoints must be at least 1, got {num_checkpoints}")
        super().__init__()
        #: The parameters at the last validations, oldest first.
        self._kept: deque[list[Tensor]] = deque(maxlen=num_checkpoints)

    @property
    def description(self) -> str:
        return f"mean of the weights at the last {self._kept.maxlen} validations"

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Do nothing: the average is updated at validations only."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > self._latest_update_step:  # not if this validation is repeated
            self._update(_model(pl_module))
            self._latest_update_step = trainer.global_step
        super().on_validation_epoch_start(trainer, pl_module)

    @torch.no_grad()
    def _update(self, model: Module) -> None:
        self.average.n_averaged.zero_()  # so that the update copies parameters and buffers
        self.average.update_parameters(model)
        self._kept.append([weight.to("cpu", copy=True) for weight in model.parameters()])
        for mean, *weights in zip(self.average.module.parameters(), *self._kept, strict=True):
            mean.copy_(torch.stack(weights).mean(0))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"kept": list(self._kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._kept.extend(state_dict["kept"])


def _model(pl_module: LightningModule) -> Any:
    """The network of a task, whose weights are averaged."""
    return cast(Any, pl_module).model


def _named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a task's network with the names that it has in the task's state."""
    return {f"model.{name}": value for name, value in state.items()}
