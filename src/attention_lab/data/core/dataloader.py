"""The DataLoader of training batches, whose position is part of a checkpoint."""

from collections.abc import Callable, Iterator, Mapping

from torch.utils.data import DataLoader

from attention_lab.data.core.batches import BatchT, SplitDataset
from attention_lab.data.core.bucket_sampler import BucketBatchSampler


class TrainingDataLoader(DataLoader[BatchT]):
    """A DataLoader of training batches; its ``state_dict`` is the position in the epoch.

    It has no worker processes: they would prefetch batches, and the position would be wrong.

    Args:
        examples: the split.
        sampler: yields the rows of each batch.
        pin_memory: whether batches are in pinned memory, for a GPU.
    """

    def __init__(
        self, examples: BatchT, sampler: BucketBatchSampler, pin_memory: bool = False
    ) -> None:
        # The sampler yields all rows of a batch, so the DataLoader must not batch again.
        dataset = SplitDataset(examples)
        super().__init__(dataset, batch_size=None, sampler=sampler, pin_memory=pin_memory)
        self._sampler = sampler
        #: Functions called before each batch is fetched, after the previous training step.
        self.before_each: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[BatchT]:  # type: ignore[override]  # torch declares a narrower type
        # Not a generator itself, so that the epoch begins with this call, not with the first batch.
        return self._with_callbacks(super().__iter__())

    def _with_callbacks(self, batches: Iterator[BatchT]) -> Iterator[BatchT]:
        while True:
            for call in self.before_each:
                call()
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that were yielded."""
        return self._sampler.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Resume at a saved position."""
        self._sampler.load_state_dict(state_dict)
