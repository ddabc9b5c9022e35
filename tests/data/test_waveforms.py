"""The dataset MNIST-1D: the published waves, splits, and a linear baseline."""

import random
import sys
from collections import Counter
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import torch
from mnist1d.data import get_dataset_args, make_dataset
from sklearn.linear_model import LogisticRegression

from attention_lab.data.bundled.waveforms import Waveforms
from attention_lab.data.core.hashing import stable_fraction

SPLITS = ("train", "validation", "test")


def loaded(**arguments: Any) -> Waveforms:
    data = Waveforms(**arguments)
    data.setup()
    return data


@pytest.fixture(scope="module")
def published() -> Waveforms:
    return loaded()


@pytest.fixture(scope="module")
def small() -> Waveforms:
    return loaded(examples=300)


def waves(data: Waveforms, split: str) -> Counter[tuple[bytes, int]]:
    inputs, labels = data.split(split)
    return Counter(
        (wave.numpy().tobytes(), int(label)) for wave, label in zip(inputs, labels, strict=True)
    )


def test_the_waves_equal_the_published_ones(small: Waveforms) -> None:
    recipe = get_dataset_args()
    recipe.num_samples = 300
    made = make_dataset(recipe)
    rows = {
        "train": [("x", row) for row in range(240) if stable_fraction(str(row)) < 0.9],
        "validation": [("x", row) for row in range(240) if stable_fraction(str(row)) >= 0.9],
        "test": [("x_test", row) for row in range(60)],
    }
    for split in SPLITS:
        expected = Counter(
            (made[part][row].astype(np.float32).tobytes(), made[part.replace("x", "y")][row])
            for part, row in rows[split]
        )
        assert waves(small, split) == expected


def test_sizes_are_the_published_ones(published: Waveforms) -> None:
    sizes = [tuple(published.split(split).inputs.shape) for split in SPLITS]
    assert sizes == [(3572, 40, 1), (428, 40, 1), (1000, 40, 1)]
    assert published.model_arguments() == {"in_features": 1, "num_classes": 10, "max_length": 40}


def test_the_waves_never_change(published: Waveforms) -> None:
    rounded = (published.split("test").inputs * 100).round().to(torch.int32)
    digest = blake2b(rounded.numpy().tobytes(), digest_size=8)
    assert digest.hexdigest() == "9098bd100f7b0f1c"


def test_only_the_draw_seed_changes_the_waves(small: Waveforms) -> None:
    again, other = loaded(examples=300, seed=3, batch_size=7), loaded(examples=300, draw_seed=1)
    for split in SPLITS:
        assert all(map(torch.equal, small.split(split), again.split(split)))
        assert waves(small, split) != waves(other, split)


def test_the_samples_may_be_shuffled(small: Waveforms) -> None:
    """All waves are shuffled alike: each sample is a sample of the original wave."""
    shuffled = loaded(examples=300, shuffled=True)
    places = set()
    for split in SPLITS:
        plain, mixed = small.split(split), shuffled.split(split)
        assert torch.equal(plain.labels, mixed.labels)
        same = torch.isclose(mixed.inputs, plain.inputs.transpose(1, 2), atol=1e-5).all(0)
        assert same.any(1).all()
        places.add(tuple(same.int().argmax(1).tolist()))
    (order,) = places
    assert sorted(order) == list(range(40)) != list(order)


def test_global_random_states_do_not_change() -> None:
    states = random.getstate(), np.random.get_state()[1].tolist()
    loaded(examples=100)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


def test_the_trivial_baseline_is_the_majority_of_training(small: Waveforms) -> None:
    majority = Counter(sorted(small.split("train").labels.tolist())).most_common(1)[0][0]
    for split in SPLITS:
        labels = small.split(split).labels.tolist()
        expected = labels.count(majority) / len(labels)
        assert small.trivial_baseline(split) == {"accuracy": pytest.approx(expected)}


def test_logistic_regression_is_as_good_as_published(published: Waveforms) -> None:
    """32 % in table 1 of the paper, trained on 4,000 waves, not 3,572."""
    train, test = published.split("train"), published.split("test")
    model = LogisticRegression(C=1e6, max_iter=2000)
    model.fit(train.inputs.squeeze(2).numpy(), train.labels.numpy())
    expected = model.score(test.inputs.squeeze(2).numpy(), test.labels.numpy())
    found = published.shortcut_baselines("test")["logistic regression"]["accuracy"]
    assert found == pytest.approx(expected, abs=0.005)
    assert found == pytest.approx(0.32, abs=0.02)


def test_slices_are_the_classes(small: Waveforms) -> None:
    slices, test = small.slices("test"), small.split("test")
    assert slices.names == [f"class={digit}" for digit in range(10)]
    assert torch.equal(slices.index_of(test), test.labels)


def test_labels_number_the_samples(small: Waveforms) -> None:
    names = {"input": [str(place) for place in range(1, 41)]}
    assert small.position_labels(small.probe(2)) == [names, names]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": 105}, "examples must be a multiple of 10 and at least 100, got 105"),
        ({"examples": 90}, "examples must be a multiple of 10 and at least 100"),
        ({"draw_seed": 2**32}, "draw_seed must be from 0 to"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Waveforms(**arguments)


def test_without_mnist1d_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(ImportError, match=r"pip install 'attention-lab\[waveforms\]'"):
        Waveforms().setup()
