"""Parity and even pairs: labels by definition, splits and slices."""

from collections import Counter
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import torch

from attention_lab.data.synthetic.binary_strings import ALPHABET, BinaryStrings
from attention_lab.data.synthetic.even_pairs import EvenPairs
from attention_lab.data.synthetic.parity import Parity

SPLITS = ("train", "validation", "test")
TASKS = (Parity, EvenPairs)


def loaded(task: type[BinaryStrings], **arguments: Any) -> BinaryStrings:
    data = task(**{"examples": 2000, "evaluation_examples": 300} | arguments)
    data.setup()
    return data


def strings(data: BinaryStrings, split: str) -> list[str]:
    return ["".join(row["input"]) for row in data.position_labels(data.split(split))]


def odd(task: type[BinaryStrings], string: str) -> bool:
    """The label by its definition, counted in plain Python."""
    if task is Parity:
        return string.count("b") % 2 == 1
    return sum(string[at : at + 2] in ("ab", "ba") for at in range(len(string))) % 2 == 1


def test_examples_of_the_docstrings_are_right() -> None:
    assert (odd(Parity, "aaabba"), odd(EvenPairs, "aabba")) == (False, False)


@pytest.mark.parametrize("task", TASKS)
def test_every_label_is_right(task: type[BinaryStrings]) -> None:
    data = loaded(task)
    for split in SPLITS:
        labels = data.split(split).labels.tolist()
        assert labels == [odd(task, string) for string in strings(data, split)]
        assert 0.4 < sum(labels) / len(labels) < 0.6


def test_lengths_are_in_range_and_uniform() -> None:
    data = loaded(Parity, examples=8000, lengths=(3, 10), test_lengths=[20, 21])
    lengths = Counter(map(len, strings(data, "train")))
    assert sorted(lengths) == list(range(3, 11))
    assert all(
        abs(count - 1000) < 130 for length, count in lengths.items() if length > 6
    )  # 4 sigma
    assert set(map(len, strings(data, "validation"))) <= set(range(3, 11))
    assert set(map(len, strings(data, "test"))) == {20, 21}
    symbols = Counter("".join(strings(data, "train")))
    assert abs(symbols["a"] / symbols.total() - 0.5) < 0.02
    assert data.model_arguments() == {
        "vocab_size": len(ALPHABET),
        "num_classes": 2,
        "max_length": 21,
    }


def test_splits_share_no_string() -> None:
    data = loaded(EvenPairs, lengths=(5, 10), test_lengths=(5, 10))
    found = [set(strings(data, split)) for split in SPLITS]
    assert len(set.union(*found)) == sum(map(len, found))


def test_examples_are_pinned_and_depend_on_the_draw_seed_only() -> None:
    data, again = loaded(Parity), loaded(Parity, seed=3, batch_size=7)
    for split in SPLITS:
        assert all(map(torch.equal, data.split(split), again.split(split)))
    digest = blake2b(" ".join(strings(data, "test")).encode(), digest_size=8)
    assert digest.hexdigest() == "8db27f10d75f19a8"
    assert strings(loaded(Parity, draw_seed=1), "test") != strings(data, "test")


@pytest.mark.parametrize("task", TASKS)
def test_the_trivial_baseline_is_the_majority_of_training(task: type[BinaryStrings]) -> None:
    data = loaded(task, examples=101, lengths=(1, 6), evaluation_examples=30)
    majority = Counter(data.split("train").labels.tolist()).most_common(1)[0][0]
    labels = data.split("test").labels.tolist()
    assert data.trivial_baseline("test") == {
        "accuracy": pytest.approx(labels.count(majority) / len(labels))
    }


def test_first_and_last_symbol_solve_even_pairs() -> None:
    data = loaded(EvenPairs)
    for split in SPLITS:
        right = [
            (string[0] != string[-1]) == label
            for string, label in zip(
                strings(data, split), data.split(split).labels.tolist(), strict=True
            )
        ]
        expected = {"first and last symbol": {"accuracy": float(np.mean(right))}}
        assert data.shortcut_baselines(split) == expected
        assert all(right)
    assert loaded(Parity).shortcut_baselines("test") == {}


def test_slices_are_of_neighbouring_lengths() -> None:
    data = loaded(Parity, test_lengths=(41, 56))
    slices = data.slices("test")
    assert slices.names[0] == "length=41-42"
    assert slices.names[-1] == "length=55-56"
    expected = [(len(string) - 41) // 2 for string in strings(data, "test")]
    assert slices.index_of(data.split("test")).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": (0, 4)}, r"^lengths must be two numbers of at least 1, .* got \[0, 4\]"),
        ({"lengths": (5, 4)}, r"^lengths must be"),
        ({"test_lengths": (4,)}, r"^test_lengths must be two numbers .* got \[4\]"),
        ({"examples": 0}, "examples must be at least 1"),
        ({"draw_seed": -1}, "draw_seed must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parity(**arguments)


def test_too_few_possible_strings_are_an_error() -> None:
    with pytest.raises(ValueError, match="allow longer ones"):
        loaded(Parity, lengths=(1, 1), test_lengths=(1, 1))
