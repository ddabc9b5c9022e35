"""Splits by a stable hash, and the data module that serves them in batches."""

import warnings
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import combinations
from typing import Any, ClassVar, Generic, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from attention_lab.attention.validation import check_positive
from attention_lab.data.core.batches import BatchT, Rows
from attention_lab.data.core.bucketing import BucketBatchSampler
from attention_lab.data.core.slices import Slices
from attention_lab.data.core.vocabulary import restored

SPLITS = ("train", "validation", "test")
_FITS_A_PICTURE = 64


def stable_fraction(key: str) -> float:
    """A number in [0, 1] that looks random but is the same for a key anywhere and for ever."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64


def split_by_hash(keys: Iterable[str], train: float, validation: float) -> dict[str, list[str]]:
    """Deal keys into train, validation and test; what is left of the two shares is test.

    Where a key goes depends on nothing but itself. Each split is in the order of the hashes, so
    its first n keys are a fair sample of it.
    """
    fractions = {key: stable_fraction(key) for key in keys}
    order = sorted(fractions, key=fractions.__getitem__)
    first = bisect_left(order, train, key=fractions.__getitem__)
    last = bisect_left(order, train + validation, key=fractions.__getitem__)
    return {"train": order[:first], "validation": order[first:last], "test": order[last:]}


def shares_without(given: Iterable[str]) -> dict[str, float]:
    """The share of the training data that each split gets where some have files of their own.

    >>> shares_without(["test"])
    {'train': 0.95, 'validation': 0.05}
    """
    held_out = dict.fromkeys((split for split in SPLITS[1:] if split not in set(given)), 0.05)
    return {"train": round(1 - sum(held_out.values()), 2), **held_out}


def warn_of_shared(splits: Mapping[str, Collection[str]], kind: str) -> None:
    """Warn, for each two splits, of what the later one has and the earlier one has, too.

    Args:
        splits: what is compared, of each split.
        kind: what that is called, such as "texts".
    """
    for earlier, later in combinations(SPLITS, 2):
        known = set(splits[earlier])
        shared = sum(example in known for example in splits[later])
        if shared:
            name = "training" if earlier == "train" else earlier
            warnings.warn(
                f"{shared} of the {len(splits[later])} {later} {kind} are in the {name} split as "
                "well: how they are answered says little of new ones",
                stacklevel=2,
            )


def warn_of_unknown(
    file: str, split: str, unknown: int, tokens: int, option: str = "tokens"
) -> None:
    """Warn of the tokens of a split that training lacks, if there are any.

    Args:
        file: where they stand, as messages call it.
        split: its name.
        unknown: how many they are.
        tokens: how many the split has.
        option: the one that says what tokens are.
    """
    if unknown:
        warnings.warn(
            f"{file}: {unknown} of the {tokens} {option.replace('_', ' ')} of {split} never occur "
            f"in training; they are read as <unk> (data.{option}=bytes knows all)",
            stacklevel=2,
        )


def checked_split(name: str) -> str:
    """The name of a split, if there is such a split; ValueError otherwise."""
    if name not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
    return name


class TrainingLoader(DataLoader[BatchT]):
    """Training batches, and the place among them, which Lightning keeps in checkpoints.

    It holds as long as batches are not fetched ahead, as worker processes would.

    Args:
        examples: the split.
        sampler: of the rows of each batch.
    """

    def __init__(self, examples: BatchT, sampler: BucketBatchSampler) -> None:
        # The sampler yields whole batches of rows, so the loader itself must not batch again.
        super().__init__(Rows(examples), batch_size=None, sampler=sampler)
        self._batches = sampler
        #: Called before each batch is fetched: all that the one before has led to is done.
        self.before_each: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[BatchT]:  # type: ignore[override]  # of which it promises less
        # Not a generator itself: an epoch begins here, not with its first batch.
        return self._announced(super().__iter__())

    def _announced(self, batches: Iterator[BatchT]) -> Iterator[BatchT]:
        while True:
            for call in self.before_each:
                call()
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How far into which epoch it has come."""
        return self._batches.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Begin in an epoch where another left off."""
        self._batches.load_state_dict(state_dict)


class SplitDataModule(LightningDataModule, ABC, Generic[BatchT]):
    """Three splits held in memory and served in batches of similar length.

    A dataset says what its splits are (``load``); everything about loaders is here.

    Args:
        batch_size: largest number of examples in a batch, per process.
        seed: of the order of the training batches. Splits never depend on it.
    """

    task: ClassVar[str]  # "sequence_to_sequence", "classification" or "language_model"
    monitor: str  # the metric by which to choose among checkpoints
    mode: Literal["min", "max"]  # which end of it is good
    #: The attributes that hold vocabularies, once loaded or restored; checkpoints keep those.
    vocabularies: ClassVar[tuple[str, ...]] = ()
    #: The arguments that name files, by a path or several.
    files: ClassVar[tuple[str, ...]] = ()

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__()
        check_positive(batch_size=batch_size)
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.batch_size = batch_size
        self.seed = seed
        self._splits: dict[str, BatchT] = {}
        self._longest: list[int] = []

    @abstractmethod
    def load(self) -> dict[str, BatchT]:
        """Read the data and return each split as one batch."""

    @abstractmethod
    def model_arguments(self) -> dict[str, int]:
        """The sizes that a model needs to know to fit the data, by argument name."""

    @abstractmethod
    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Metrics of the trivial baseline, fitted to the training split, on a split."""

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Metrics on a split of what is known to do well without solving the task, by its name."""
        return {}

    def slices(self, split: str) -> Slices | None:
        """The kinds of examples of a split whose accuracy is told apart; None if it has none."""
        return None

    @abstractmethod
    def labels(self, batch: BatchT) -> list[dict[str, list[str]]]:
        """For each example of a batch, the names of its positions by sequence, no padding."""

    @property
    def is_loaded(self) -> bool:
        """Whether there are splits, and not only what a checkpoint kept of them."""
        return bool(self._splits)

    def setup(self, stage: str | None = None) -> None:
        """Load and split everything, the first time it is called."""
        if not self.is_loaded:
            self._splits = self.load()
            for name in SPLITS:
                if name not in self._splits or not len(self._splits[name].lengths()):
                    raise ValueError(f"{type(self).__name__} gives no {name} examples")
            greatest = [split.lengths().amax(0) for split in self._splits.values()]
            self._longest = torch.stack(greatest).amax(0).tolist()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, in plain values: vocabularies, greatest lengths."""
        kept = {name: getattr(self, name).state() for name in self.vocabularies}
        return {"vocabularies": kept, "longest": self.longest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure that loaded data has the vocabularies of a checkpoint.

        Raises:
            ValueError: if it has others: its ids mean something else there.
        """
        for name, kept in state_dict["vocabularies"].items():
            if getattr(self, name).state() != kept:
                raise ValueError(
                    f"data: {name.replace('_', ' ')} is not the checkpoint's, so the data has "
                    "changed since; evaluate it as it was, or train again"
                )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take vocabularies and greatest lengths from a checkpoint, in place of ``setup``.

        Without any file of the data, ``model_arguments`` and ``longest`` then answer as they did,
        and text can be read and written; splits there are none.

        Args:
            state: what ``state_dict`` gave.
        """
        for name in self.vocabularies:
            setattr(self, name, restored(state["vocabularies"][name]))
        self._longest = list(state["longest"])

    def split(self, name: str) -> BatchT:
        """All examples of a split as one batch.

        Raises:
            ValueError: if there is no such split.
        """
        return self._splits[checked_split(name)]

    def longest(self) -> list[int]:
        """The greatest lengths of each kind of sequence, the main one first, in all splits.

        Only lengths are looked at, of the test split, too: a model must be able to read it.
        """
        return self._longest

    def train_dataloader(self) -> DataLoader[BatchT]:
        """Training batches, shuffled each epoch."""
        return TrainingLoader(self.split("train"), self._batches("train", shuffle=True))

    def steps_per_epoch(self, processes: int) -> int:
        """Training batches per process in an epoch, if so many processes share the data."""
        lengths = self.split("train").lengths()
        return len(BucketBatchSampler(lengths, self.batch_size, False, 0, processes, rank=0))

    def val_dataloader(self) -> DataLoader[BatchT]:
        """Validation batches, shortest examples first."""
        return self.evaluation_dataloader("validation")

    def test_dataloader(self) -> DataLoader[BatchT]:
        """Test batches, shortest examples first."""
        return self.evaluation_dataloader("test")

    def evaluation_dataloader(self, split: str) -> DataLoader[BatchT]:
        """Batches of any split, never shuffled, shortest examples first."""
        batches = self._batches(split, shuffle=False)
        return DataLoader(Rows(self.split(split)), batch_size=None, sampler=batches)

    def probe(self, size: int) -> BatchT:
        """A batch of ``size`` fixed validation examples to look at, or of all if there are fewer.

        Raises:
            ValueError: if ``size`` is below 1.
        """
        check_positive(size=size)
        return self.split("validation").select(self._probe_order()[:size])

    def _probe_order(self) -> Tensor:
        """The validation rows, those most worth looking at first: those that fit a picture."""
        lengths = self.split("validation").lengths().sum(1)
        return (lengths > _FITS_A_PICTURE).to(torch.int8).argsort(stable=True)

    def _batches(self, split: str, shuffle: bool) -> BucketBatchSampler:
        lengths = self.split(split).lengths()
        return BucketBatchSampler(lengths, self.batch_size, shuffle, self.seed)
