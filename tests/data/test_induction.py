"""Induction: repeated segments, and their baselines."""

from collections import Counter
from hashlib import blake2b
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from attention_lab.data.core.batches import IGNORE
from attention_lab.data.core.splits import SPLITS
from attention_lab.data.synthetic.induction import Induction

SMALL: dict[str, Any] = {"examples": 400, "evaluation_examples": 100}


def loaded(**options: Any) -> Induction:
    data = Induction(**{**SMALL, **options})
    data.setup()
    return data


def rows(data: Induction, split: str) -> list[tuple[list[int], list[int]]]:
    batch = data.split(split)
    return list(zip(batch.inputs.tolist(), batch.labels.tolist(), strict=True))


def period(labels: list[int]) -> int:
    """The length of the segment: the number of positions without a label."""
    return labels.count(IGNORE)


@pytest.mark.parametrize("options", [{}, {"length": 20, "periods": [2, 19]}])
def test_the_next_token_occurred_one_segment_before(options: dict[str, Any]) -> None:
    data = loaded(**options)
    for split in SPLITS:
        for inputs, labels in rows(data, split):
            n = period(labels)
            assert labels[:n] == [IGNORE] * n
            assert inputs[n:] == inputs[:-n]
            assert labels[n:-1] == inputs[n + 1 :]
            assert labels[-1] == inputs[len(inputs) - n]


def test_periods_and_tokens_are_uniform() -> None:
    train = rows(loaded(examples=5000), "train")
    periods = Counter(period(labels) for _, labels in train)
    assert set(periods) == set(range(8, 17))
    assert chisquare(list(periods.values())).pvalue > 1e-4
    tokens = Counter(token for inputs, labels in train for token in inputs[: period(labels)])
    assert set(tokens) == set(range(32))
    assert chisquare(list(tokens.values())).pvalue > 1e-4


def test_splits_share_no_example() -> None:
    inputs = [{tuple(row) for row, _ in rows(loaded(), split)} for split in SPLITS]
    assert len(set.union(*inputs)) == sum(map(len, inputs))


def test_examples_of_a_seed_are_pinned() -> None:
    one, other = loaded(seed=1), loaded(seed=2)
    assert [rows(one, split) for split in SPLITS] == [rows(other, split) for split in SPLITS]
    digest = blake2b(str([rows(one, split)[:20] for split in SPLITS]).encode(), digest_size=8)
    assert digest.hexdigest() == FROZEN


FROZEN = "c75bf1011b12aa85"


@pytest.mark.parametrize(
    "arguments",
    [
        {"vocab_size": 33},
        {"length": 49},
        {"periods": [7, 16]},
        {"periods": [8, 17]},
        {"draw_seed": 1},
    ],
)
def test_every_argument_changes_the_data(arguments: dict[str, Any]) -> None:
    assert rows(loaded(**arguments), "train") != rows(loaded(), "train")


def test_the_trivial_baseline_is_a_random_previous_token() -> None:
    data = loaded()
    chances = [
        inputs[: place + 1].count(label) / (place + 1)
        for inputs, labels in rows(data, "test")
        for place, label in enumerate(labels)
        if label != IGNORE
    ]
    assert data.trivial_baseline("test") == {"accuracy": pytest.approx(sum(chances) / len(chances))}


def test_shortcut_baselines_by_definition() -> None:
    data = loaded(vocab_size=16)

    def at_distance(split: str, distance: int) -> float:
        right = [
            inputs[place + 1 - distance] == label
            for inputs, labels in rows(data, split)
            for place, label in enumerate(labels)
            if label != IGNORE and place + 1 >= distance
        ]
        asked = sum(label != IGNORE for _, labels in rows(data, split) for label in labels)
        return sum(right) / asked

    best = max(range(8, 17), key=lambda distance: at_distance("train", distance))
    matched = []
    for inputs, labels in rows(data, "test"):
        for place, label in enumerate(labels):
            if label != IGNORE:
                last = max(i for i in range(place) if inputs[i] == inputs[place])
                matched.append(inputs[last + 1] == label)
    assert data.shortcut_baselines("test") == {
        "fixed distance": {"accuracy": pytest.approx(at_distance("test", best))},
        "last match": {"accuracy": pytest.approx(sum(matched) / len(matched))},
    }


def test_a_fixed_distance_solves_one_period_and_the_last_match_many_tokens() -> None:
    assert loaded(periods=[9, 9]).shortcut_baselines("test")["fixed distance"] == {"accuracy": 1.0}
    many = loaded(vocab_size=10**6).shortcut_baselines("test")
    assert many["last match"]["accuracy"] > 0.999 > 0.3 > many["fixed distance"]["accuracy"]


def test_slices_are_by_period() -> None:
    data = loaded()
    slices = data.slices("test")
    names = ["period=8-9", "period=10-11", "period=12-13", "period=14-15", "period=16"]
    assert slices.names == names
    expected = [(period(labels) - 8) // 2 for _, labels in rows(data, "test")]
    assert slices.index_of(data.split("test")).tolist() == expected


def test_sizes_and_labels() -> None:
    data = loaded(length=30)
    assert data.model_arguments() == {"vocab_size": 32, "max_length": 30}
    assert data.longest() == [30]
    first = data.split("test").select(torch.tensor([0]))
    assert data.position_labels(first) == [{"input": list(map(str, first.inputs[0].tolist()))}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 1}, "vocab_size must be at least 2, got 1"),
        ({"periods": [0, 4]}, "periods must be two numbers of at least 1"),
        ({"periods": [8, 48]}, r"periods=\[8, 48\] must be below length=48"),
    ],
)
def test_invalid_options_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Induction(**{**SMALL, **options})
