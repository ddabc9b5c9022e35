"""Batches of examples of similar length, so that little of a batch is padding."""

from collections.abc import Iterable, Iterator, Mapping
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, TensorDataset


class BucketBatchSampler(DistributedSampler[Tensor]):
    """Rows for each batch: all examples, sorted by length and cut into batches.

    Every example is in exactly one batch of an epoch. Of several processes each gets its part of
    every batch, which then is as many times as large: they run in step, with examples of similar
    lengths, and see together what one process with that batch size would see. The sizes of batches
    differ by at most one, and so do those of the parts of one; no example counts twice in a metric.

    With ``shuffle``, examples of equal lengths are cut in a random order and the batches come in a
    random order, which both depend on (``seed``, ``epoch``) only. Lightning calls ``set_epoch``
    before each epoch. It would wrap another sampler under a distributed strategy (and repeat
    batches until they divide evenly), but leaves a ``DistributedSampler`` as it is.

    ``state_dict`` says how far into which epoch it has come; whoever loads that gets what is left
    of this epoch first.

    Args:
        lengths: (N, K) int64: K lengths of each of N examples, sorted by the first one first.
        batch_size: largest number of examples in a batch, per process. (With a batch size of 1 it
            can be 2, as no process may be left without an example.)
        shuffle: whether to shuffle; otherwise shortest first and ties by row.
        seed: of the shuffling.
        num_replicas: number of processes; by default those of the process group, if there is one.
        rank: which of them this one is; by default what the process group says.

    Raises:
        ValueError: if there are fewer examples than processes.
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            num_replicas, rank = num_replicas or 1, rank or 0
        super().__init__(TensorDataset(lengths), num_replicas, rank, shuffle, seed)
        if len(lengths) < self.num_replicas:
            raise ValueError(
                f"{len(lengths)} examples are too few for {self.num_replicas} processes"
            )
        self._lengths = lengths.numpy()
        wanted = ceil(len(lengths) / (batch_size * self.num_replicas))
        self._batches = min(wanted, len(lengths) // self.num_replicas)
        self._given = self._first = 0

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Tensor]:
        examples, batches = len(self._lengths), len(self)
        # Not seed + epoch, with which seed 1 would repeat the second epoch of seed 0.
        random = np.random.default_rng((self.seed, self.epoch))
        ties = random.permutation(examples) if self.shuffle else np.arange(examples)
        order = np.lexsort((ties, *self._lengths.T[::-1]))  # the last key is the main one
        cut = np.array_split(order, batches)
        turns = random.permutation(batches) if self.shuffle else np.arange(batches)
        self._given, self._first = self._first, 0
        mine = slice(self.rank, None, self.num_replicas)
        return self._counted(torch.from_numpy(cut[turn][mine]) for turn in turns[self._given :])

    def _counted(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for batch in batches:
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches have been given out."""
        return {"epoch": self.epoch, "given": self._given}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Begin in an epoch where another left off."""
        self.epoch, self._first = state_dict["epoch"], state_dict["given"]
