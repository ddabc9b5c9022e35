"""Addition: the sums equal Python's."""

from collections import Counter
from hashlib import blake2b
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from attention_lab.data.core.batches import SequencePairs, pad
from attention_lab.data.core.splits import SPLITS
from attention_lab.data.core.vocabulary import BOS, EOS
from attention_lab.data.synthetic.addition import Addition

SMALL: dict[str, Any] = {"examples": 400, "evaluation_examples": 100}


def loaded(**options: Any) -> Addition:
    data = Addition(**{**SMALL, **options})
    data.setup()
    return data


def texts(data: Addition, split: str) -> list[tuple[str, str, str]]:
    """Both numbers and the sum of each row, most significant digit first."""
    way = -1 if data.reversed else 1
    rows = []
    for source, target, _ in zip(*(column.tolist() for column in data.split(split)), strict=True):
        one, other = "".join(data.source_vocabulary.ids_to_tokens(source)).split("+")
        total = "".join(data.target_vocabulary.ids_to_tokens(target))
        rows.append((one[::way], other[::way], total[::way]))
    return rows


@pytest.mark.parametrize("reversed", [False, True])
@pytest.mark.parametrize("lengths", [(1, 3), (25, 30)])
def test_targets_are_sums(reversed: bool, lengths: tuple[int, int]) -> None:
    data = loaded(reversed=reversed, lengths=lengths, test_lengths=(lengths[1], 33))
    for split in SPLITS:
        for one, other, total in texts(data, split):
            assert total == str(int(one) + int(other))
            assert (one, other) == (str(int(one)), str(int(other)))  # no leading zeros
            shortest, longest = (lengths[1], 33) if split == "test" else lengths
            assert shortest <= min(len(one), len(other)) <= max(len(one), len(other)) <= longest


@pytest.mark.parametrize("reversed", [False, True])
def test_digits_of_a_sum_are_aligned_with_those_of_the_same_place(reversed: bool) -> None:
    """In 95 + 7 = 102, the 2 is aligned with 5 and 7, the 0 with the 9, and the 1 with none."""
    data = loaded(reversed=reversed)
    way = -1 if reversed else 1
    ids = data.source_vocabulary.tokens_to_ids([*"95"[::way], "+", "7"])
    digits = data.target_vocabulary.tokens_to_ids([*"102"[::way]])
    longer = data.source_vocabulary.tokens_to_ids([*"12345+6"])  # so that the first is padded
    total = data.target_vocabulary.tokens_to_ids([*"12351"])
    batch = SequencePairs(
        pad([ids, longer]), pad([[BOS, *digits, EOS], [BOS, *total, EOS]]), torch.arange(2)
    )
    links = data.alignments(batch)
    assert links.shape == (2, batch.target.shape[1] - 1, 7)
    nine, five, seven = (1, 0, 3) if reversed else (0, 1, 3)
    zero, two = 1, (0 if reversed else 2)
    assert links[0].nonzero().tolist() == sorted([[zero, nine], [two, five], [two, seven]])


def test_digits_and_lengths_are_uniform() -> None:
    rows = texts(loaded(examples=20_000, lengths=(2, 4)), "train")
    for which in (0, 1):
        numbers = [row[which] for row in rows]
        lengths = Counter(map(len, numbers))
        assert chisquare([lengths[n] for n in (2, 3, 4)]).pvalue > 1e-4
        longest = [number for number in numbers if len(number) == 4]
        assert chisquare(list(Counter(number[0] for number in longest).values())).pvalue > 1e-4
        assert chisquare(list(Counter(number[-1] for number in longest).values())).pvalue > 1e-4
        assert {number[0] for number in longest} == set("123456789")
    pairs = Counter((len(one), len(other)) for one, other, _ in rows)
    assert len(pairs) == 9


@pytest.mark.parametrize("reversed", [False, True])
def test_splits_share_no_pair_in_either_order(reversed: bool) -> None:
    data = loaded(reversed=reversed, examples=3000, lengths=(1, 2), test_lengths=(1, 3))
    pairs = [{tuple(sorted(row[:2])) for row in texts(data, split)} for split in SPLITS]
    assert len(set.union(*pairs)) == sum(map(len, pairs))
    orders = {row[:2] for row in texts(data, "train")}
    assert any((other, one) in orders and one != other for one, other in orders)


def test_examples_of_a_seed_are_pinned() -> None:
    one, other = loaded(seed=1), loaded(seed=2)
    assert [texts(one, split) for split in SPLITS] == [texts(other, split) for split in SPLITS]
    digest = blake2b(str([texts(one, split)[:20] for split in SPLITS]).encode(), digest_size=8)
    assert digest.hexdigest() == FROZEN


FROZEN = "b7e991a396d873a2"


@pytest.mark.parametrize("arguments", [{"lengths": [1, 6]}, {"lengths": [2, 5]}, {"draw_seed": 1}])
def test_every_argument_changes_the_data(arguments: dict[str, Any]) -> None:
    assert texts(loaded(**arguments), "train") != texts(loaded(), "train")


def test_slices_are_by_the_longer_number() -> None:
    data = loaded(lengths=(1, 12), test_lengths=(1, 15))
    slices = data.slices("test")
    assert slices.names[-3:] == ["length=11-12", "length=13-14", "length=15"]
    ends = [int(name.rpartition("=")[2].rpartition("-")[2]) for name in slices.names]
    found = slices.index_of(data.split("test")).tolist()
    for (one, other, _), slice_ in zip(texts(data, "test"), found, strict=True):
        longer = max(len(one), len(other))
        assert slice_ == sum(end < longer for end in ends)


@pytest.mark.parametrize("reversed", [False, True])
def test_adding_without_carries_is_right_if_no_digit_is_carried(reversed: bool) -> None:
    data = loaded(reversed=reversed)
    right = 0
    for one, other, _ in texts(data, "test"):
        width = max(len(one), len(other))
        digits = zip(one.zfill(width), other.zfill(width), strict=True)
        right += all(int(a) + int(b) < 10 for a, b in digits)
    score = data.shortcut_baselines("test")["no carry"]
    assert score["sequence_accuracy"] == pytest.approx(right / 100)
    assert 0 < score["token_error_rate"] < data.trivial_baseline("test")["token_error_rate"]
    assert score["sequence_accuracy"] > data.trivial_baseline("test")["sequence_accuracy"]


def test_model_arguments_have_the_sizes() -> None:
    assert loaded().model_arguments() == {"source_vocab_size": 15, "target_vocab_size": 14}


def test_invalid_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"^lengths must be two numbers"):
        Addition(lengths=(3, 2))
