"""Selective copying: tokens among noise, as in the paper."""

from collections import Counter
from hashlib import blake2b
from typing import Any

import pytest
from scipy.stats import chisquare

from attention_lab.data.core.batches import IGNORE
from attention_lab.data.core.splits import SPLITS
from attention_lab.data.synthetic.selective_copy import SelectiveCopy

SMALL: dict[str, Any] = {"examples": 400, "evaluation_examples": 100, "length": 24, "copied": 4}


def loaded(**options: Any) -> SelectiveCopy:
    data = SelectiveCopy(**{**SMALL, **options})
    data.setup()
    return data


def rows(data: SelectiveCopy, split: str) -> list[tuple[list[int], list[int]]]:
    batch = data.split(split)
    return list(zip(batch.inputs.tolist(), batch.labels.tolist(), strict=True))


@pytest.mark.parametrize("sizes", [(24, 4, 16), (8, 4, 5), (12, 1, 4)])
def test_labels_at_the_markers_are_the_copied_tokens_in_order(sizes: tuple[int, int, int]) -> None:
    length, copied, vocab_size = sizes
    data = SelectiveCopy(5, 2, vocab_size, length, copied)
    data.setup()
    for split in SPLITS:
        for inputs, labels in rows(data, split):
            assert len(inputs) == len(labels) == length
            assert inputs[-copied:] == [vocab_size - 1] * copied
            tokens = [token for token in inputs[:-copied] if token != 0]
            assert labels == [IGNORE] * (length - copied) + tokens
            assert all(0 < token < vocab_size - 1 for token in tokens)


def test_tokens_and_places_are_uniform() -> None:
    train = rows(loaded(examples=5000), "train")
    tokens = Counter(label for _, labels in train for label in labels if label != IGNORE)
    assert set(tokens) == set(range(1, 15))
    assert chisquare(list(tokens.values())).pvalue > 1e-4
    places = Counter(place for inputs, _ in train for place in range(20) if inputs[place])
    assert set(places) == set(range(20))
    assert chisquare(list(places.values())).pvalue > 1e-4


def test_splits_share_no_example() -> None:
    data = loaded(vocab_size=4, length=12, copied=2)
    inputs = [{tuple(row) for row, _ in rows(data, split)} for split in SPLITS]
    assert len(set.union(*inputs)) == sum(map(len, inputs))


def test_examples_of_a_seed_are_pinned() -> None:
    one, other = loaded(seed=1), loaded(seed=2)
    assert [rows(one, split) for split in SPLITS] == [rows(other, split) for split in SPLITS]
    digest = blake2b(str([rows(one, split)[:20] for split in SPLITS]).encode(), digest_size=8)
    assert digest.hexdigest() == FROZEN


FROZEN = "8af4d304f8aa215b"


@pytest.mark.parametrize(
    "arguments", [{"vocab_size": 17}, {"length": 25}, {"copied": 5}, {"draw_seed": 1}]
)
def test_every_argument_changes_the_data(arguments: dict[str, Any]) -> None:
    assert rows(loaded(**arguments), "train") != rows(loaded(), "train")


def test_trivial_and_shortcut_baselines_by_definition() -> None:
    data = loaded(vocab_size=6)

    def copied(split: str) -> list[tuple[list[int], list[int]]]:
        """Where the tokens stand in each example, and which they are."""
        return [
            ([place for place, token in enumerate(inputs[:20]) if token], labels[20:])
            for inputs, labels in rows(data, split)
        ]

    train, test = copied("train"), copied("test")
    counts = Counter(token for _, tokens in train for token in tokens)
    average = [sum(places[j] for places, _ in train) / 400 for j in range(4)]
    right = Counter[str]()
    for places, tokens in test:
        most = max(sorted(set(tokens)), key=tokens.count)
        for j, token in enumerate(tokens):
            right["trivial_baseline"] += token == max(counts, key=lambda known: counts[known])
            closest = min(range(4), key=lambda i: abs(places[i] - average[j]))
            right["place"] += tokens[closest] == token
            right["frequency"] += token == most
    assert data.trivial_baseline("test") == {
        "accuracy": pytest.approx(right["trivial_baseline"] / 400)
    }
    assert data.shortcut_baselines("test") == {
        "place": {"accuracy": pytest.approx(right["place"] / 400)},
        "frequency": {"accuracy": pytest.approx(right["frequency"] / 400)},
    }


def test_slices_are_by_the_mean_distance() -> None:
    data = loaded(copied=3)
    slices, distances = data.slices("test"), []
    for inputs, _ in rows(data, "test"):
        places = [place for place, token in enumerate(inputs[:21]) if token]
        distances.append(sum(21 + j - place for j, place in enumerate(places)) / 3)
    for slice_, distance in zip(
        slices.index_of(data.split("test")).tolist(), distances, strict=True
    ):
        first, _, last = slices.names[slice_].removeprefix("distance=").rstrip("+").partition("-")
        open_ended = slices.names[slice_].endswith("+")
        assert int(first) <= distance < (100 if open_ended else int(last or first) + 1)
    assert len(slices.names) == 5


def test_sizes_and_labels() -> None:
    data = loaded()
    assert data.model_arguments() == {"vocab_size": 16, "max_length": 24}
    assert data.longest() == [24]
    for names, (inputs, _) in zip(
        data.position_labels(data.split("test")), rows(data, "test"), strict=True
    ):
        assert names["input"] == ["·" if t == 0 else ">" if t == 15 else str(t) for t in inputs]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"vocab_size": 3},
            r"vocab_size must be at least 4 \(noise, two to copy, a marker\), got 3",
        ),
        ({"copied": 0}, "copied must be at least 1, got 0"),
        ({"length": 7}, "copied=4 tokens and as many markers do not fit length=7"),
    ],
)
def test_invalid_options_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        SelectiveCopy(**{**SMALL, **options})
