"""The base class of the LightningModules: optimization, logging, and counting tokens."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, Metric

from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.models.base import Network
from attention_lab.training.accumulation import AccumulatedLoss
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.fsdp import is_sharded, shard
from attention_lab.training.lightning_loops import QuickHooksModule, is_accumulating
from attention_lab.training.optim import Optimization, total_steps
from attention_lab.training.tasks.slice_accuracy import SliceAccuracy

Split = Literal["validation", "test"]


class Loss(NamedTuple):
    """The training loss of a batch."""

    #: (), the mean over the labels.
    mean: Tensor
    #: (), the number of labels.
    labels: Tensor | int
    #: (), the number of tokens without padding, for tokens per second.
    tokens: Tensor


class Prediction(NamedTuple):
    """What a network predicts for one example, as text."""

    input: str
    reference: str
    prediction: str
    is_correct: bool


class AttentionTask(QuickHooksModule, ABC):
    """The LightningModule of a task: the loss and the metrics of a network.

    It can be trained with a plain Trainer::

        data.setup()
        optimizer = functools.partial(torch.optim.AdamW, lr=1e-3)
        task = Classification(model, data, Optimization(optimizer))
        lightning.Trainer(max_epochs=3).fit(task, data)

    Args:
        model: the network.
        data: the loaded dataset; it defines slices and metrics.
        optimization: the optimizer, its schedule and its parameter groups.
    """

    #: "sequence_to_sequence", "classification" or "language_model".
    task: ClassVar[str]
    tokens: Tensor

    def __init__(
        self, model: Network, data: SplitDataModule[Any], optimization: Optimization
    ) -> None:
        super().__init__()
        self.model = model
        self.data = data
        self.optimization = optimization
        #: Functions to call before each validation, before its dataloader draws random numbers.
        self.before_validation: list[Callable[[], None]] = []
        #: :meth:`loss` as ``torch.compile`` compiled it, for training; None means uncompiled.
        self.compiled_loss: Callable[[AttentionTask, Any], Loss] | None = None
        #: Norm of the last gradient before it was clipped; None without clipping.
        self.gradient_norm: Tensor | None = None
        # A tensor, so that counting never waits for the device.
        self.register_buffer("tokens", torch.zeros((), dtype=torch.int64), persistent=False)
        self.slice_accuracy = nn.ModuleDict()
        for split in ("validation", "test") if data.is_loaded else ():
            if (slices := data.slices(split)) is not None:
                self.slice_accuracy[split] = SliceAccuracy(slices)

    @abstractmethod
    def loss(self, batch: Any) -> Loss:
        """The training loss of a batch."""

    @abstractmethod
    def update_metrics(self, batch: Any, split: Split) -> Tensor:
        """Update the metrics of a split with a batch; return its mean loss, ()."""

    @abstractmethod
    def compute_metrics(self, split: Split) -> dict[str, Tensor]:
        """Compute the metrics of the batches since the last call, by name, and reset them."""

    def metric_bounds(self) -> Mapping[str, tuple[float, float | None]]:
        """The smallest and largest possible values of metrics that ``metric_info`` does not know.

        None means unbounded.
        """
        return {}

    @abstractmethod
    def record_attention(self, batch: Any) -> None:
        """Run one forward pass as in training, so that hooks on attention can record weights."""

    @abstractmethod
    def predict_examples(self, batch: Any) -> list[Prediction]:
        """The predictions for the examples of a batch of the validation split."""

    def update_slices(self, batch: Any, split: Split, correct: Tensor, total: Tensor) -> None:
        """Update the accuracy on slices with correct and all predictions per example, (B,) each."""
        if split in self.slice_accuracy:
            self._slice_accuracy(split).update(batch, correct, total)

    def _slice_accuracy(self, split: Split) -> SliceAccuracy:
        return cast(SliceAccuracy, self.slice_accuracy[split])

    def training_step(self, batch: Any, batch_index: int) -> Tensor | dict[str, Tensor]:
        if self.trainer.accumulate_grad_batches > 1:
            return self._accumulating_step(batch, batch_index)
        loss, labels, tokens = self._training_loss(batch)
        if process_group.is_distributed():
            # DDP averages the gradients of all ranks. Weighting a rank's loss by its number of
            # labels makes this the gradient of the mean over all labels.
            all_labels, tokens = process_group.all_reduce_sum([labels, tokens], loss.device)
            loss = loss * (labels * self.trainer.world_size / all_labels)
        self.tokens.add_(tokens)  # in place: `+=` would register the buffer at every step
        self._log_step(loss)
        return loss

    def _accumulating_step(self, batch: Any, batch_index: int) -> dict[str, Tensor]:
        """A training step whose gradient is accumulated; "step_loss" is that of the whole step."""
        mean, labels, tokens = self._training_loss(batch)
        all_labels, tokens = process_group.all_reduce_sum([labels, tokens], mean.device)
        self.tokens.add_(tokens)
        number = self.trainer.accumulate_grad_batches
        if batch_index % number == 0:
            self._accumulated = AccumulatedLoss(number, all_labels)
        labels = labels * self.trainer.world_size  # the ranks' gradients are averaged
        loss = self._accumulated.add(mean, labels, all_labels)
        if not is_accumulating(self.trainer):
            self._log_step(self._accumulated.mean)
        return {"loss": loss, "step_loss": self._accumulated.mean}

    def on_after_backward(self) -> None:
        if self.trainer.accumulate_grad_batches > 1 and not is_accumulating(self.trainer):
            self._accumulated.rescale(self.model.parameters())

    def _training_loss(self, batch: Any) -> Loss:
        return self.loss(batch) if self.compiled_loss is None else self.compiled_loss(self, batch)

    def is_step_logged(self) -> bool:
        """Whether metrics of the next optimizer step are logged: at intervals and at the last."""
        steps = self.global_step + 1
        # Lightning sets the attribute, and does not declare it.
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return steps % interval == 0 or steps == self.total_steps

    def _log_step(self, loss: Tensor) -> None:
        """Log the loss and the learning rate of an optimizer step, if they are due."""
        # Lightning's loggers keep only these steps; logging the others would cost time.
        if self.is_step_logged():
            # Lightning reads the metrics of its progress bar at every step, which synchronizes.
            has_bar = self.trainer.progress_bar_callback is not None
            is_distributed = process_group.is_distributed()
            self.log("train/loss", loss, prog_bar=has_bar, sync_dist=is_distributed)
            # A tensor: Lightning would copy a number to the device, and wait for it.
            rate = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log("train/learning_rate", rate)

    def on_validation_model_zero_grad(self) -> None:
        # The only hook between the last training step and the validation's dataloader.
        super().on_validation_model_zero_grad()
        for call in self.before_validation:
            call()

    def validation_step(self, batch: Any, batch_index: int) -> Tensor:
        return self.update_metrics(batch, "validation")

    def test_step(self, batch: Any, batch_index: int) -> Tensor:
        return self.update_metrics(batch, "test")

    def on_validation_epoch_end(self) -> None:
        # Lightning's own "step" would be the index of the last step, which is one less.
        self.log("step", float(self.global_step))
        metrics = self._log_metrics("validation")
        scheduler = self.lr_schedulers()
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            assert isinstance(scheduler, LambdaLR)
            value = metrics[self.data.monitor]
            self.optimization.schedule.on_validation(scheduler, value, self.data.mode)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["tokens"] = int(self.tokens)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.tokens.fill_(checkpoint["tokens"])

    @functools.cached_property
    def total_steps(self) -> float:
        """Optimizer steps of the whole training; infinite if the Trainer has no limit.

        ``Trainer.estimated_stepping_batches`` would set up the dataloader before a checkpoint is
        loaded, and so lose the position in the epoch.
        """
        trainer, batches = self.trainer, len(self.data.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        steps_per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        assert trainer.max_epochs is not None
        return total_steps(trainer.max_epochs, trainer.max_steps, steps_per_epoch)

    def _log_metrics(self, split: Split) -> dict[str, Tensor]:
        metrics = self.compute_metrics(split)
        if split in self.slice_accuracy:
            metrics |= compute_and_reset(self._slice_accuracy(split))
        for name, value in metrics.items():
            self.log(f"{split}/{name}", value, prog_bar=split == "validation")
        return metrics

    def configure_model(self) -> None:
        # Lightning's hook for sharding with ModelParallelStrategy.
        mesh = self.device_mesh
        if mesh is not None and not is_sharded(self.model):
            shard(self.model, mesh["data_parallel"])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's default refuses fused optimizers under any mixed precision, although only
        # 16-mixed scales gradients.
        if gradient_clip_val is None:
            return
        # In the model's order, not the optimizer's: the order decides the last bit of the norm.
        parameters = list(self.model.parameters())
        if gradient_clip_algorithm == "value":
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        self.gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimization.create_optimizer(self.model)
        scheduler = self.optimization.schedule.scheduler(optimizer, self.total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def mean_metric() -> MeanMetric:
    """A mean that is NaN if a value is NaN; torchmetrics' default would drop the value."""
    return MeanMetric(nan_strategy=math.nan)


def compute_and_reset(metric: Metric) -> Any:
    """The value of a metric, which is then reset."""
    value = metric.compute()
    metric.reset()
    return value
