"""The dataset of digits."""

import sys
from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits

from attention_lab.data.bundled.digits import Digits

SPLITS = ("train", "validation", "test")


def test_sizes(digits: Digits) -> None:
    assert digits.model_arguments() == {"in_features": 8, "num_classes": 10, "max_length": 8}
    assert [tuple(digits.split(split).inputs.shape) for split in SPLITS] == [
        (1251, 8, 8),
        (176, 8, 8),
        (370, 8, 8),
    ]


def test_every_image_is_in_one_split_with_its_label_and_scaled(digits: Digits) -> None:
    images = load_digits()
    expected = Counter(zip(map(bytes, images.images), images.target, strict=True))
    found = Counter(
        (bytes((image * 16).double().numpy()), label)
        for split in SPLITS
        for image, label in zip(*digits.split(split), strict=True)
        for label in [int(label)]
    )
    assert found == expected
    train = digits.split("train")
    assert [float(bound) for bound in train.inputs.aminmax()] == [0, 1]
    assert train.inputs.dtype == torch.float32
    assert train.labels.dtype == torch.int64


def test_splits_never_change(digits: Digits) -> None:
    first = digits.split("test").labels[:20].tolist()
    assert "".join(map(str, first)) == "48271279066164884780"
    other = Digits(seed=1)
    other.setup()
    for split in SPLITS:
        assert all(map(torch.equal, digits.split(split), other.split(split)))


def test_the_seed_changes_the_order(digits: Digits) -> None:
    def order(seed: int) -> list[int]:
        data = Digits(seed=seed)
        data.setup()
        return [label for batch in data.train_dataloader() for label in batch.labels.tolist()]

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == sorted(digits.split("train").labels.tolist())


def test_the_batch_size_is_the_largest_batch() -> None:
    data = Digits(batch_size=100)
    data.setup()
    assert [len(batch.labels) for batch in data.test_dataloader()] == [93, 93, 92, 92]


def test_the_trivial_baseline_is_the_majority_class_of_training(digits: Digits) -> None:
    counts = Counter(digits.split("train").labels.tolist())
    majority = max(counts, key=lambda label: (counts[label], -label))
    for split in SPLITS:
        labels = digits.split(split).labels.tolist()
        expected = labels.count(majority) / len(labels)
        assert digits.trivial_baseline(split) == {"accuracy": pytest.approx(expected)}


@pytest.mark.parametrize("read", ["rows", "pixels"])
def test_the_shortcut_baseline_is_the_nearest_mean_image(read: str) -> None:
    data = Digits(read=read)  # type: ignore[arg-type]
    data.setup()
    images, labels = data.split("train").inputs.flatten(1).numpy(), data.split("train").labels
    means = [images[labels.numpy() == digit].astype(float).mean(0) for digit in range(10)]
    right = [
        min(range(10), key=lambda d: sum((image.flatten() - means[d]) ** 2)) == label
        for image, label in zip(
            data.split("test").inputs.numpy(), data.split("test").labels, strict=True
        )
    ]
    expected = {"nearest class mean": {"accuracy": pytest.approx(sum(right) / 370)}}
    assert data.shortcut_baselines("test") == expected
    assert 0.8 < sum(right) / 370 < 1


def test_slices_are_the_classes(digits: Digits) -> None:
    slices, batch = digits.slices("test"), digits.split("test").select(torch.arange(20))
    names = [slices.names[slice_] for slice_ in slices.index_of(batch).tolist()]
    assert names == [f"class={digit}" for digit in "48271279066164884780"]


def test_a_probe_is_the_beginning_of_validation(digits: Digits) -> None:
    batch = digits.probe(3)
    assert torch.equal(batch.inputs, digits.split("validation").inputs[:3])
    assert torch.equal(batch.labels, digits.split("validation").labels[:3])


def test_labels_name_the_rows(digits: Digits) -> None:
    names = {"input": [f"row {row}" for row in (1, 2, 3, 4, 5, 6, 7, 8)]}
    assert digits.position_labels(digits.probe(2)) == [names, names]


def test_pixels_are_the_rows_one_after_the_other(digits: Digits) -> None:
    pixels = Digits(read="pixels")
    pixels.setup()
    assert pixels.model_arguments() == {"in_features": 1, "num_classes": 10, "max_length": 64}
    for split in SPLITS:
        rows, single = digits.split(split), pixels.split(split)
        assert torch.equal(single.labels, rows.labels)
        assert torch.equal(single.inputs, rows.inputs.flatten(1).unsqueeze(2))
    (names,) = (example["input"] for example in pixels.position_labels(pixels.probe(1)))
    assert (len(names), names[0], names[8], names[63]) == (64, "row 1, 1", "row 2, 1", "row 8, 8")


def test_other_values_of_read_are_refused() -> None:
    with pytest.raises(ValueError, match="read must be rows or pixels, got 'columns'"):
        Digits(read="columns")  # type: ignore[arg-type]


def test_without_scikit_learn_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'attention-lab\[digits\]'"):
        Digits().setup()
