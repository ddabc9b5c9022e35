"""What all tasks share: optimization, counting tokens, and noticing divergence."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.models.base import Network
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.fsdp import is_sharded, shard
from attention_lab.training.optim import OptimizerOptions, total_steps
from attention_lab.training.tasks.slice_accuracy import SliceAccuracy

Split = Literal["validation", "test"]


class Diverged(RuntimeError):
    """The training loss is NaN or infinite."""

    run_status = "diverged"


class Loss(NamedTuple):
    """The loss of a batch."""

    #: (), the mean over what is counted.
    mean: Tensor
    #: (), of how many labels it is the mean.
    labels: Tensor | int
    #: (), real (not padding) tokens in the batch, by which speed is measured.
    tokens: Tensor


class AttentionTask(LightningModule, ABC):
    """Wraps a network: losses and metrics, and nothing about how attention works.

    Args:
        model: the network.
        data: the dataset, which knows what its metrics mean.
        optimizer: how to train.
    """

    #: What can be trained so: "sequence_to_sequence", "classification" or "language_model".
    task: ClassVar[str]
    tokens: Tensor

    def __init__(
        self, model: Network, data: SplitDataModule[Any], optimizer: OptimizerOptions
    ) -> None:
        super().__init__()
        self.model = model
        self.data = data
        self.optimizer_options = optimizer
        #: Called before each validation: nothing of it has happened, and all that led to it.
        self.before_validation: list[Callable[[], None]] = []
        #: Real (not padding) tokens trained on so far, by all processes; a tensor, so that
        #: counting never waits for the device.
        self.register_buffer("tokens", torch.zeros((), dtype=torch.int64), persistent=False)
        self._gradient_norm: Tensor | None = None
        self.slices = {
            split: slices
            for split in ("validation", "test")
            if data.is_loaded and (slices := data.slices(split)) is not None
        }
        self.slice_accuracy = nn.ModuleDict(
            {split: SliceAccuracy(slices.names) for split, slices in self.slices.items()}
        )

    @abstractmethod
    def loss(self, batch: Any) -> Loss:
        """The training loss of a batch."""

    @abstractmethod
    def evaluate(self, batch: Any, split: Split) -> None:
        """Take a batch of a split into its metrics."""

    @abstractmethod
    def results(self, split: Split) -> dict[str, Tensor]:
        """The metrics of all batches since the last call, which starts them anew."""

    def bounds(self) -> Mapping[str, tuple[float, float | None]]:
        """The smallest and the greatest value of each metric; None where there is none."""
        return {}

    @abstractmethod
    def look_at(self, batch: Any) -> None:
        """One forward pass over a batch as in training, for whoever observes attention."""

    def tell_apart(self, batch: Any, split: Split, right: Tensor, asked: Tensor) -> None:
        """Count right answers among those asked for, (B,) each, by the slices of the data."""
        if split in self.slices:
            self._slice_accuracy(split).update(right, asked, self.slices[split].of(batch))

    def _slice_accuracy(self, split: Split) -> SliceAccuracy:
        accuracy = self.slice_accuracy[split]
        assert isinstance(accuracy, SliceAccuracy)
        return accuracy

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        loss, labels, tokens = self.loss(batch)
        if process_group.is_distributed():
            # The gradients of all processes will be averaged. The mean over all labels is what is
            # wanted, to which a process with more of them has more to say.
            all_labels, tokens = process_group.all_reduce_sum([labels, tokens], loss.device)
            loss = loss * (labels * self.trainer.world_size / all_labels)
        self.tokens.add_(tokens)  # in place: `+=` would register the buffer anew at every step
        # Between the steps that Lightning writes down, logging would only cost time.
        steps = self.global_step + 1
        if steps % self._log_every == 0 or steps == self._total_steps:
            self.log("train/loss", loss, prog_bar=True, sync_dist=process_group.is_distributed())
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        # Looking at them waits for the device, so not at every step.
        if self.global_step % self._log_every == 0:
            self.require_finite("training loss", outputs["loss"])
            if self._gradient_norm is not None:
                self.require_finite("norm of the gradient", self._gradient_norm)

    def on_validation_model_zero_grad(self) -> None:
        super().on_validation_model_zero_grad()
        for call in self.before_validation:
            call()

    def validation_step(self, batch: Any, batch_index: int) -> None:
        self.evaluate(batch, "validation")

    def test_step(self, batch: Any, batch_index: int) -> None:
        self.evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        # Lightning would say the index of the last step, one less than the steps taken.
        self.log("step", float(self.global_step))
        self._log_results("validation")

    def on_test_epoch_end(self) -> None:
        self._log_results("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["tokens"] = int(self.tokens)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.tokens.fill_(checkpoint["tokens"])

    @functools.cached_property
    def _total_steps(self) -> float:
        """Optimizer steps of the whole training; infinite where the Trainer has no limit.

        Lightning's own estimate would make it set up its loader before a checkpoint is read, and
        then forget the place in the epoch.
        """
        trainer, batches = self.trainer, len(self.data.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        steps_per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        assert trainer.max_epochs is not None
        return total_steps(trainer.max_epochs, trainer.max_steps, steps_per_epoch)

    @property
    def _log_every(self) -> int:
        return self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it

    def _log_results(self, split: Split) -> None:
        results = self.results(split)
        if split in self.slice_accuracy:
            results |= self._slice_accuracy(split).compute()
            self._slice_accuracy(split).reset()
        for name, value in results.items():
            self.log(f"{split}/{name}", value, prog_bar=split == "validation")

    def require_finite(self, what: str, number: Tensor) -> None:
        """Raise Diverged unless something () is a number in all processes; means would hide it."""
        if process_group.any_rank(not torch.isfinite(number)):
            value = next(
                each for each in process_group.all_gather(number.item()) if not math.isfinite(each)
            )
            raise Diverged(f"the {what} is {value} at step {self.global_step}")

    def require_finite_weights(self) -> None:
        """Raise Diverged unless all weights are numbers, in all processes."""
        parts = (p.to_local() if isinstance(p, DTensor) else p for p in self.model.parameters())
        largest = torch.stack([part.detach().abs().amax() for part in parts if part.numel()])
        self.require_finite("largest weight", largest.amax())

    def configure_model(self) -> None:
        mesh = self.device_mesh
        if mesh is not None and not is_sharded(self.model):
            shard(self.model, mesh["data_parallel"])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's own refuses fused optimizers under any mixed precision, although gradients
        # are scaled under one of them only.
        if gradient_clip_val is not None:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)
            self._gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        scaled = self.trainer.precision == "16-mixed"  # the only one that scales gradients
        optimizer = self.optimizer_options.optimizer(self.model, fused=not scaled)
        scheduler = self.optimizer_options.scheduler(optimizer, self._total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
