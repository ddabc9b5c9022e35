"""The LightningDataModule that every dataset subclasses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from attention_lab.argument_checks import check_positive
from attention_lab.data.core.batches import BatchT, SplitDataset
from attention_lab.data.core.bucket_sampler import BucketBatchSampler
from attention_lab.data.core.dataloader import TrainingDataLoader
from attention_lab.data.core.slices import Slices
from attention_lab.data.core.splits import SPLITS, check_split
from attention_lab.data.core.vocabulary import vocabulary_from_state

#: The greatest length of an example whose attention map fits on a screen.
_MAX_PROBE_LENGTH = 64


class SplitDataModule(LightningDataModule, ABC, Generic[BatchT]):
    """Three splits in memory, served in batches of examples of similar length.

    A subclass implements ``load``, ``model_arguments``, ``trivial_baseline`` and
    ``position_labels``. Arguments of its constructor whose names begin with "test" change the test
    split alone: ``attention-lab evaluate`` accepts them for a finished run.

    Args:
        batch_size: largest number of examples in a batch, per process.
        seed: seed of the order of the training batches. Splits do not depend on it.
    """

    #: "sequence_to_sequence", "classification" or "language_model".
    task: ClassVar[str]
    #: The validation metric that selects the best checkpoint, and which values are best.
    monitor: str
    mode: Literal["min", "max"]
    #: The names of the attributes that are vocabularies; checkpoints save them.
    vocabularies: ClassVar[tuple[str, ...]] = ()
    #: The names of the constructor's arguments that are paths, or lists of paths.
    files: ClassVar[tuple[str, ...]] = ()
    #: The names of the columns of its files, unless the argument ``columns`` gives others.
    default_columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__()
        check_positive(batch_size=batch_size)
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.batch_size = batch_size
        self.seed = seed
        #: For data from files: the share of the training file of each split without its own file.
        self.shares: dict[str, float] = {}
        self._splits: dict[str, BatchT] = {}
        self._longest: list[int] = []
        #: Whether every epoch has the training batches of the first, as ``overfit_batches`` needs.
        self.repeats_epoch = False

    @abstractmethod
    def load(self) -> dict[str, BatchT]:
        """Read or draw the data; returns each split as one batch."""

    @abstractmethod
    def model_arguments(self) -> dict[str, int]:
        """Arguments of the model that depend on the data, such as the vocabulary's size."""

    @abstractmethod
    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Metrics of the trivial baseline on a split; it is fitted to the training split."""

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Metrics of the shortcut baselines on a split, by name.

        A shortcut baseline has good metrics although it does not solve the task.
        """
        return {}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Metrics of the trivial baseline and of the shortcut baselines on a split, by name."""
        trivial = {"trivial baseline": self.trivial_baseline(split)}
        return trivial | self.shortcut_baselines(split)

    def slices(self, split: str) -> Slices | None:
        """The slices that a split's accuracy is broken down by; None means no breakdown."""
        return None

    @abstractmethod
    def position_labels(self, batch: BatchT) -> list[dict[str, list[str]]]:
        """The names of the positions of each example, without padding, for attention maps.

        Returns:
            For each example, the names of each sequence's positions, such as its tokens. The key of
            a sequence is "input", or "source" and "target".
        """

    def alignments(self, batch: BatchT) -> Tensor | None:
        """Which source positions each target position is aligned with, where that is known.

        Returns:
            (B, T, S) bool, without BOS in the target; None if the data has no alignments.
        """
        return None

    @property
    def is_loaded(self) -> bool:
        """Whether the splits are loaded; False if only a checkpoint's state is restored."""
        return bool(self._splits)

    def setup(self, stage: str | None = None) -> None:
        """Load all splits; later calls do nothing."""
        if not self.is_loaded:
            self._splits = self.load()
            for name in SPLITS:
                if name not in self._splits or not len(self._splits[name].lengths()):
                    raise ValueError(f"{type(self).__name__} has no {name} examples")
            greatest = [split.lengths().amax(0) for split in self._splits.values()]
            self._longest = torch.stack(greatest).amax(0).tolist()

    def state_dict(self) -> dict[str, Any]:
        """The part of a checkpoint that describes the data: vocabularies and greatest lengths."""
        kept = {name: getattr(self, name).state_dict() for name in self.vocabularies}
        return {"vocabularies": kept, "longest": self.longest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the loaded data has the vocabularies of the checkpoint.

        Raises:
            ValueError: if a vocabulary differs, since its ids would mean other tokens.
        """
        for name, kept in state_dict["vocabularies"].items():
            if getattr(self, name).state_dict() != kept:
                raise ValueError(
                    f"data: {name.replace('_', ' ')} differs from the checkpoint's, so the data "
                    "has changed since training; restore it, or train again"
                )

    def difference(self, other: "SplitDataModule[Any]") -> str:
        """What differs from other data if its token ids may mean something else; "" if nothing."""
        kinds = [type(data).__name__ for data in (self, other)]
        if kinds[0] != kinds[1]:
            return f"{kinds[0]} and {kinds[1]}"
        for name in self.vocabularies:
            if getattr(self, name).state_dict() != getattr(other, name).state_dict():
                return f"their {name.replace('_', ' ')} differs"
        return ""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load vocabularies and greatest lengths from a checkpoint, instead of ``setup``.

        ``model_arguments``, ``longest`` and the vocabularies then work without the data's files.
        There are no splits.

        Args:
            state: the ``state_dict`` of the data in the checkpoint.
        """
        for name in self.vocabularies:
            setattr(self, name, vocabulary_from_state(state["vocabularies"][name]))
        self._longest = list(state["longest"])

    def split(self, name: str) -> BatchT:
        """All examples of a split as one batch.

        Raises:
            ValueError: if there is no such split.
        """
        return self._splits[check_split(name)]

    def longest(self) -> list[int]:
        """The greatest length of each kind of sequence over all splits, the input's first."""
        return self._longest

    def training_rows(self) -> BatchT:
        """The training split as the rows of training batches; a dataset may pack it."""
        return self.split("train")

    def train_dataloader(self) -> DataLoader[BatchT]:
        """Training batches, reshuffled in each epoch."""
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        examples = self.training_rows()
        batches = BucketBatchSampler(
            examples.lengths(),
            self.batch_size,
            True,
            self.seed,
            accumulate_grad_batches=accumulated,
            repeats_epoch=self.repeats_epoch,
        )
        return TrainingDataLoader(examples, batches, self._pin_memory)

    def batches_per_epoch(
        self, processes: int, accumulate_grad_batches: int, split: str = "train"
    ) -> int:
        """The number of batches of a split per process, for a number of processes."""
        examples = self.training_rows() if split == "train" else self.split(split)
        options = (self.batch_size, False, 0, processes, 0, accumulate_grad_batches)
        return len(BucketBatchSampler(examples.lengths(), *options))

    def val_dataloader(self) -> DataLoader[BatchT]:
        """Validation batches, shortest examples first."""
        return self.evaluation_dataloader("validation")

    def test_dataloader(self) -> DataLoader[BatchT]:
        """Test batches, shortest examples first."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str, rows: Tensor | None = None) -> DataLoader[BatchT]:
        """Batches of any split, or of some of its rows, in a fixed order: shortest examples first.

        Args:
            split: the name of the split.
            rows: (R,) int64; None means all.
        """
        examples = self.split(split) if rows is None else self.split(split).select(rows)
        batches = BucketBatchSampler(examples.lengths(), self.batch_size, False)
        dataset = SplitDataset(examples)
        return DataLoader(dataset, batch_size=None, sampler=batches, pin_memory=self._pin_memory)

    @property
    def _pin_memory(self) -> bool:
        """Whether batches are copied to a GPU: from pinned memory, the CPU need not wait."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # On the CPU the batch is there already, and searching it for tensors would cost time.
        if device.type == "cpu":
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def probe(self, size: int) -> BatchT:
        """A fixed batch of validation examples, for attention maps and predictions.

        Args:
            size: number of examples; if there are fewer, the batch has all.

        Raises:
            ValueError: if ``size`` is below 1.
        """
        check_positive(size=size)
        return self.split("validation").select(self._probe_order()[:size])

    def _probe_order(self) -> Tensor:
        """The validation rows; those whose attention map fits on a screen come first."""
        lengths = self.split("validation").lengths().sum(1)
        return (lengths > _MAX_PROBE_LENGTH).to(torch.int8).argsort(stable=True)
