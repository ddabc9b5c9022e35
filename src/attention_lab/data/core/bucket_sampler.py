"""A batch sampler that groups examples of similar length, to reduce padding."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, TensorDataset


class BucketBatchSampler(DistributedSampler[Tensor]):
    """Yields the rows of each batch: examples are sorted by length and cut into batches.

    Every example is in exactly one batch of an epoch. With several processes, the batch size is
    multiplied by their number, and each process gets a part of every batch. Together they train on
    the same batches as one process with the multiplied batch size. The sizes of batches differ by
    at most one, as do the sizes of the parts. No example is repeated, so metrics are exact.

    With accumulation, the batches of an optimizer step are parts of a larger batch in the same way.

    With ``shuffle``, examples of equal length are sorted in a random order, and the batches are
    yielded in a random order. Both orders depend on (``seed``, ``epoch``) only. Lightning calls
    ``set_epoch`` before each epoch. Under a distributed strategy, Lightning replaces other
    samplers, but not a subclass of ``DistributedSampler``.

    ``state_dict`` has the position in an epoch. After ``load_state_dict`` the next epoch yields the
    remaining batches.

    Args:
        lengths: (N, K) int64, K lengths of each example; sorted by the first, then the second, ….
        batch_size: largest number of examples in a batch, per process. (A batch size of 1 may
            become 2, since every process needs an example.)
        shuffle: whether to shuffle; if not, the shortest come first, ties in the order of rows.
        seed: seed of the random orders.
        num_replicas: number of processes; None means that of the process group, or 1.
        rank: this process's rank; None means that in the process group, or 0.
        accumulate_grad_batches: consecutive batches that are parts of one larger batch.
        repeats_epoch: whether every epoch has the batches and the order of the first.

    Raises:
        ValueError: if there are fewer examples than parts of a batch.
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        accumulate_grad_batches: int = 1,
        repeats_epoch: bool = False,
    ) -> None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            num_replicas, rank = num_replicas or 1, rank or 0
        super().__init__(TensorDataset(lengths), num_replicas, rank, shuffle, seed)
        self._accumulated, self._repeats = accumulate_grad_batches, repeats_epoch
        parts = self.num_replicas * accumulate_grad_batches
        if len(lengths) < parts:
            processes = f"{self.num_replicas} process{'es' if self.num_replicas > 1 else ''}"
            each = f", {accumulate_grad_batches} batches each" if parts > self.num_replicas else ""
            raise ValueError(f"{len(lengths)} examples are too few for {processes}{each}")
        self._lengths = lengths.numpy()
        wanted = ceil(len(lengths) / (batch_size * parts))
        self._steps = min(wanted, len(lengths) // parts)
        self._yielded = self._resume_at = 0

    def __len__(self) -> int:
        return self._steps * self._accumulated

    def __iter__(self) -> Iterator[Tensor]:
        examples, steps = len(self._lengths), self._steps
        # Not seed + epoch: epoch 0 of seed 1 would have the order of epoch 1 of seed 0.
        random = np.random.default_rng((self.seed, 0 if self._repeats else self.epoch))
        ties = random.permutation(examples) if self.shuffle else np.arange(examples)
        order = np.lexsort((ties, *self._lengths.T[::-1]))  # lexsort sorts by the last key first
        cut = np.array_split(order, steps)
        turns = random.permutation(steps) if self.shuffle else np.arange(steps)
        self._yielded, self._resume_at = self._resume_at, 0
        parts = self.num_replicas * self._accumulated
        own = [slice(part, None, parts) for part in range(self.rank, parts, self.num_replicas)]
        batches = ((turn, part) for turn in turns for part in own)
        remaining = islice(batches, self._yielded, None)
        return self._counted(torch.from_numpy(cut[turn][part]) for turn, part in remaining)

    def _counted(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for batch in batches:
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that were yielded."""
        return {"epoch": self.epoch, "yielded": self._yielded}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Resume at a saved position."""
        self.epoch, self._resume_at = state_dict["epoch"], state_dict["yielded"]
