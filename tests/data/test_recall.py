"""Multi-query associative recall: examples are as published, for all sizes."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.synthetic.generated import sample_without_replacement
from attention_lab.data.synthetic.recall import Recall

SMALL: dict[str, Any] = {"examples": 400, "evaluation_examples": 50, "vocab_size": 64}


def recall(**options: Any) -> Recall:
    data = Recall(**{**SMALL, **options})
    data.setup()
    return data


def check_example(inputs: list[int], labels: list[int], pairs: int, vocabulary: int) -> None:
    """Check one example against the description in the paper."""
    half = vocabulary // 2
    context, rest = inputs[: 2 * pairs], inputs[2 * pairs :]
    value_of = dict(zip(context[::2], context[1::2], strict=True))
    assert len(value_of) == len(set(value_of.values())) == pairs
    assert all(1 <= key < half <= value < vocabulary for key, value in value_of.items())
    asked = [position for position, label in enumerate(labels) if label != IGNORE]
    assert sorted(inputs[position] for position in asked) == sorted(value_of)
    for position in asked:
        assert position >= 2 * pairs
        assert position % 2 == 0
        assert labels[position] == value_of[inputs[position]]
    assert all(0 <= token < vocabulary for token in rest)


@pytest.mark.parametrize(("length", "pairs"), [(16, 4), (64, 4), (32, 8), (6, 1)])
def test_examples_are_as_published(length: int, pairs: int) -> None:
    train = recall(lengths=[length], pairs=[pairs]).split("train")
    assert train.inputs.shape == train.labels.shape == (400, length)
    for inputs, labels in zip(train.inputs.tolist(), train.labels.tolist(), strict=True):
        check_example(inputs, labels, pairs, 64)


def test_lengths_are_mixed_and_each_has_a_slice() -> None:
    data = recall(lengths=[16, 32], pairs=[2, 6])
    train = data.split("train")
    assert Counter(train.length.tolist()).keys() == {16, 32}
    assert min(Counter(train.length.tolist()).values()) > 150
    for inputs, labels, length in zip(*(column.tolist() for column in train[:3]), strict=True):
        check_example(inputs[:length], labels[:length], {16: 2, 32: 6}[length], 64)
        assert set(labels[length:]) <= {IGNORE}
    slices = data.slices("test")
    assert slices is not None
    assert slices.names == ["length=16,pairs=2", "length=32,pairs=6"]
    assert torch.equal(slices.index_of(train), (train.length == 32).long())
    assert recall().slices("test") is None
    asked = (data.split("test").labels != IGNORE).sum()
    assert data.trivial_baseline("test") == {"accuracy": pytest.approx(50 / float(asked))}


def test_distances_follow_the_power_law() -> None:
    """Drawn one after the other without repetition, in proportion to i^(a − 1)."""
    power, places, pairs = 0.5, 4, 2
    data = recall(lengths=[12], pairs=[2], power=power, examples=20_000, vocab_size=512)
    train = data.split("train")
    keys = train.inputs[:, :4:2]
    asked = (train.labels != IGNORE).nonzero()[:, 1].view(-1, 2)
    order = train.inputs.gather(1, asked) == keys[:, :1]  # which question is for the first key
    first = torch.where(order[:, 0], asked[:, 0], asked[:, 1])
    second = asked.sum(1) - first
    found = Counter(zip(((first - 4) // 2).tolist(), ((second - 4) // 2).tolist(), strict=True))
    weights = [i ** (power - 1) for i in range(1, places + 1)]
    total = sum(weights)
    expected = {
        (one, other): weights[one] / total * weights[other] / (total - weights[one])
        for one, other in itertools.permutations(range(places), pairs)
    }
    counts = [found[pair] for pair in expected]
    assert chisquare(counts, [20_000 * share for share in expected.values()]).pvalue > 1e-4


def test_samples_without_replacement_are_uniform() -> None:
    rows = sample_without_replacement(np.random.default_rng(0), 24_000, 4, 3)
    counts = Counter(map(tuple, rows.tolist()))
    assert set(counts) == set(itertools.permutations(range(4), 3))
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_predicting_a_random_value_has_the_accuracy_of_the_trivial_baseline() -> None:
    """Predicting a random one of the values is right once in ``pairs``."""
    data = recall(evaluation_examples=2000)
    test = data.split("test")
    values = test.inputs[:, 1:8:2]
    picked = values[torch.arange(2000)[:, None], torch.randint(4, (2000, 64))]
    asked = test.labels != IGNORE
    accuracy = (picked == test.labels)[asked].float().mean()
    assert float(accuracy) == pytest.approx(data.trivial_baseline("test")["accuracy"], abs=0.02)


def as_numbers(batch: LabelledPositions) -> list[list[list[int]]]:
    return [column.tolist() for column in batch[:3]]


def test_examples_of_a_seed_are_pinned() -> None:
    one, other = recall(seed=1), recall(seed=2)
    for split in ("train", "validation", "test"):
        assert as_numbers(one.split(split)) == as_numbers(other.split(split))
    assert one.split("train").inputs[0, :12].tolist() == FIRST


FIRST = [4, 43, 18, 33, 7, 59, 24, 50, 22, 59, 18, 46]


@pytest.mark.parametrize(
    "arguments",
    [
        {"vocab_size": 66},
        {"lengths": [66]},
        {"pairs": [5]},
        {"power": 0.3},
        {"random_fill": False},
        {"draw_seed": 1},
    ],
)
def test_every_argument_changes_the_data(arguments: dict[str, Any]) -> None:
    changed, usual = recall(**arguments).split("train"), recall().split("train")
    assert as_numbers(changed) != as_numbers(usual)


def test_without_random_fill_other_positions_are_zero() -> None:
    train = recall(random_fill=False).split("train")
    rest, asked = train.inputs[:, 8:], train.labels[:, 8:] != IGNORE
    assert torch.equal(rest != 0, asked)


def test_model_arguments_have_the_sizes() -> None:
    data = recall(lengths=[16, 32], pairs=[2, 6])
    assert data.model_arguments() == {"vocab_size": 64, "max_length": 32}
    assert data.longest() == [32]
    batch = data.probe(2)
    assert [len(names["input"]) for names in data.position_labels(batch)] == batch.length.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [64, 32]}, "must have equally many values"),
        ({"lengths": []}, "must have equally many values"),
        ({"vocab_size": 63}, "vocab_size must be even"),
        ({"lengths": [12]}, "4 × pairs must fit"),
        ({"lengths": [17]}, "even length"),
        ({"pairs": [0]}, "0 pairs"),
        ({"vocab_size": 8}, "no 4 different keys"),
        ({"power": 0.0}, "power must be above 0"),
        ({"examples": 0}, "examples must be at least 1"),
        ({"draw_seed": -1}, "draw_seed must be at least 0"),
    ],
)
def test_invalid_options_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recall(**{**SMALL, **options})
