"""Batches, and splits as one batch of all examples."""

from types import SimpleNamespace

import pytest
import torch

from attention_lab.data.core.batches import LabelledSequences, SequencePairs, pad
from attention_lab.data.synthetic.reversal import Reverse

PAIRS = SequencePairs(
    source=torch.tensor([[5, 6, 7, 8], [5, 0, 0, 0], [6, 7, 0, 0]]),
    target=torch.tensor([[1, 4, 2, 0, 0], [1, 4, 5, 2, 0], [1, 4, 5, 6, 2]]),
    index=torch.arange(3),
)


def test_pad_pads_to_the_longest_sequence() -> None:
    padded = pad([[4, 5], [6, 7, 8], [9]])
    assert padded.tolist() == [[4, 5, 0], [6, 7, 8], [9, 0, 0]]
    assert padded.dtype == torch.int64


def test_lengths_do_not_count_padding() -> None:
    assert PAIRS.lengths().tolist() == [[4, 3], [1, 4], [2, 5]]


def test_selected_pairs_are_trimmed_to_their_longest() -> None:
    batch = PAIRS.select(torch.tensor([2, 1]))
    assert batch.source.tolist() == [[6, 7], [5, 0]]
    assert batch.target.tolist() == [[1, 4, 5, 6, 2], [1, 4, 5, 2, 0]]
    assert batch.index.tolist() == [2, 1]
    assert PAIRS.select(torch.tensor([0])).target.tolist() == [[1, 4, 2]]


def test_selected_sequences_keep_their_labels() -> None:
    sequences = LabelledSequences(torch.arange(12.0).view(3, 2, 2), torch.tensor([7, 8, 9]))
    batch = sequences.select(torch.tensor([2, 0]))
    assert batch.inputs.tolist() == [[[8, 9], [10, 11]], [[0, 1], [2, 3]]]
    assert batch.labels.tolist() == [9, 7]
    assert sequences.lengths().tolist() == [[2], [2], [2]]


@pytest.mark.parametrize(("device", "is_pinned"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_batches_are_pinned_for_a_gpu(device: str, is_pinned: bool) -> None:
    data = Reverse(examples=20, evaluation_examples=5)
    data.setup()
    assert not data.train_dataloader().pin_memory
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(accumulate_grad_batches=1, strategy=strategy)  # type: ignore
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    assert [loader.pin_memory for loader in loaders] == [is_pinned] * 3
