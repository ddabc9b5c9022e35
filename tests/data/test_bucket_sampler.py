"""The batch sampler: the rows of each batch, their order, and the part of each process."""

from itertools import chain

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from attention_lab.data.bundled.digits import Digits
from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.bucket_sampler import BucketBatchSampler

LENGTHS = torch.randint(1, 12, (500, 2), generator=torch.Generator().manual_seed(0))


def batches(sampler: BucketBatchSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return [batch.tolist() for batch in sampler]


def shuffled(seed: int = 0, epoch: int = 0) -> list[list[int]]:
    return batches(BucketBatchSampler(LENGTHS, 32, shuffle=True, seed=seed), epoch)


def padding(cut: list[list[int]]) -> float:
    """The fraction of all positions in some batches that is padding."""
    lengths = [LENGTHS[batch] for batch in cut]
    padded = sum(len(rows) * int(rows.amax(0).sum()) for rows in lengths)
    return 1 - sum(int(rows.sum()) for rows in lengths) / padded


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("examples", [1, 31, 32, 33, 500])
def test_every_example_is_in_exactly_one_batch(examples: int, shuffle: bool) -> None:
    sampler = BucketBatchSampler(LENGTHS[:examples], 32, shuffle)
    for epoch in range(3):
        cut = batches(sampler, epoch)
        assert sorted(chain.from_iterable(cut)) == list(range(examples))
        assert len(cut) == len(sampler) == -(-examples // 32)
        assert max(map(len, cut)) <= 32
        assert max(map(len, cut)) - min(map(len, cut)) <= 1


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("processes", [2, 3, 7])
def test_all_processes_together_have_the_batches_of_one_process(
    processes: int, shuffle: bool
) -> None:
    shares = [
        batches(BucketBatchSampler(LENGTHS, 16, shuffle, 0, processes, rank), epoch=1)
        for rank in range(processes)
    ]
    one = batches(BucketBatchSampler(LENGTHS, 16 * processes, shuffle), epoch=1)
    assert len(one) > 1
    for parts, whole in zip(zip(*shares, strict=True), one, strict=True):
        assert sorted(chain.from_iterable(parts)) == sorted(whole)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= 16


@pytest.mark.parametrize("examples", [4, 5, 7, 8, 11])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_every_process_gets_an_example_of_each_batch(examples: int, batch_size: int) -> None:
    shares = [
        batches(BucketBatchSampler(LENGTHS[:examples], batch_size, True, 0, 4, rank))
        for rank in range(4)
    ]
    sizes = [len(batch) for share in shares for batch in share]
    assert min(sizes) >= 1
    assert max(sizes) <= max(2, batch_size)
    assert sorted(row for share in shares for batch in share for row in batch) == list(
        range(examples)
    )


def test_the_rank_is_taken_from_the_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    told = BucketBatchSampler(LENGTHS, 32, shuffle=True, num_replicas=4, rank=3)
    assert batches(BucketBatchSampler(LENGTHS, 32, shuffle=True)) == batches(told)


def test_fewer_examples_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 examples are too few for 3 processes"):
        BucketBatchSampler(LENGTHS[:2], 32, shuffle=True, num_replicas=3, rank=0)


def test_order_depends_on_seed_and_epoch_only() -> None:
    torch.manual_seed(1)
    first = shuffled(seed=3, epoch=5)
    torch.manual_seed(2)
    assert shuffled(seed=3, epoch=5) == first


def test_epochs_and_seeds_differ_in_batches_and_in_their_order() -> None:
    first = shuffled()
    for other in (shuffled(epoch=1), shuffled(seed=1)):
        assert set(map(frozenset, first)) != set(map(frozenset, other))
        assert [LENGTHS[batch[0]].tolist() for batch in first] != [
            LENGTHS[batch[0]].tolist() for batch in other
        ]


def test_a_seed_does_not_repeat_the_epochs_of_another() -> None:
    assert shuffled(seed=1, epoch=0) != shuffled(seed=0, epoch=1)


def test_batches_hold_similar_lengths() -> None:
    rows = torch.randperm(480, generator=torch.Generator().manual_seed(1))
    assert padding(shuffled()) < 0.3
    assert padding(rows.view(-1, 32).tolist()) > 0.4


def test_without_shuffling_the_shortest_come_first_and_nothing_changes() -> None:
    sampler = BucketBatchSampler(LENGTHS, 32, shuffle=False, seed=0)
    order = list(chain.from_iterable(batches(sampler)))
    assert order == sorted(range(500), key=lambda row: (*LENGTHS[row].tolist(), row))
    other_seed = BucketBatchSampler(LENGTHS, 32, shuffle=False, seed=1)
    assert batches(sampler, epoch=1) == batches(sampler) == batches(other_seed)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("given", [0, 1, 5, 8])
def test_a_sampler_resumes_at_a_saved_position(shuffle: bool, processes: int, given: int) -> None:
    def new() -> BucketBatchSampler:
        return BucketBatchSampler(LENGTHS, 32, shuffle, 7, processes, processes - 1)

    first, second = new(), new()
    whole = [batches(new(), epoch) for epoch in range(5)]
    first.set_epoch(3)
    left = iter(first)
    before = [next(left).tolist() for _ in range(given)]
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["epoch"] == 3
    # Only what is left of this epoch, then all of the next.
    assert [*before, *(batch.tolist() for batch in second)] == whole[3]
    assert batches(second, epoch=4) == whole[4]
    assert len(second) == len(first)
    again = new()
    again.load_state_dict(second.state_dict())
    assert list(again) == []


class Recorder(LightningModule):
    """Trains nothing, and records the labels of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: LabelledSequences, batch_index: int) -> Tensor:
        self.seen[-1] += batch.labels.tolist()
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


@pytest.mark.filterwarnings("ignore")
def test_lightning_sets_the_epoch_of_the_sampler(digits: Digits) -> None:
    module = Recorder()
    loader: DataLoader[LabelledSequences] = digits.train_dataloader()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    expected = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        expected.append([label for batch in loader for label in batch.labels.tolist()])
    assert module.seen == expected
    assert expected[0] != expected[1]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("given", [0, 3, 4, 9])
def test_accumulated_batches_are_parts_of_the_whole_batch(
    given: int, processes: int, shuffle: bool
) -> None:
    def part(rank: int) -> BucketBatchSampler:
        return BucketBatchSampler(LENGTHS, 8, shuffle, 0, processes, rank, 3)

    shares = [batches(part(rank), epoch=1) for rank in range(processes)]
    whole = batches(BucketBatchSampler(LENGTHS, 24 * processes, shuffle), epoch=1)
    assert len(shares[0]) == len(part(0)) == 3 * len(whole)
    assert max(len(batch) for share in shares for batch in share) <= 8
    for step, rows in enumerate(whole):
        parts = [share[3 * step : 3 * step + 3] for share in shares]
        assert sorted(row for share in parts for batch in share for row in batch) == sorted(rows)
    resumed = part(0)
    resumed.load_state_dict({"epoch": 1, "yielded": given})
    assert [batch.tolist() for batch in resumed] == shares[0][given:]


def test_fewer_examples_than_accumulated_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="5 examples are too few for 1 process, 9 batches each"):
        BucketBatchSampler(LENGTHS[:5], 8, True, 0, 1, 0, 9)
    with pytest.raises(ValueError, match="5 examples are too few for 2 processes, 3 batches each"):
        BucketBatchSampler(LENGTHS[:5], 8, True, 0, 2, 0, 3)
