"""The stable hash, the splits that it makes, and the checks of all data modules."""

import doctest
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from attention_lab.data.bundled.digits import Digits
from attention_lab.data.bundled.g2p import G2P
from attention_lab.data.core import sequence_metrics, slices, vocabulary
from attention_lab.data.core.hashing import stable_fraction
from attention_lab.data.core.splits import split_by_hash

KEYS = [f"key {number}" for number in range(10_000)]


def test_hash_fractions_never_change() -> None:
    assert stable_fraction("tomato") == pytest.approx(0.2240808371409163)


def test_splits_have_about_the_requested_shares() -> None:
    splits = split_by_hash(KEYS, train=0.7, validation=0.1)
    sizes = [len(splits[split]) / len(KEYS) for split in ("train", "validation", "test")]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_every_key_is_in_one_split() -> None:
    splits = split_by_hash(KEYS, train=0.7, validation=0.1)
    assert sorted(key for split in splits.values() for key in split) == sorted(KEYS)


def test_the_split_of_a_key_depends_on_the_key_only() -> None:
    everything = split_by_hash(KEYS, train=0.7, validation=0.1)
    some = set(KEYS[::3])
    for split, keys in split_by_hash(reversed(KEYS[::3]), train=0.7, validation=0.1).items():
        assert keys == [key for key in everything[split] if key in some]


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: G2P(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: G2P(limit=0), "limit must be at least 1, got 0"),
        (lambda: G2P(evaluation_limit=-1), "evaluation_limit must be at least 1, got -1"),
        (lambda: G2P(seed=-1), "seed must be at least 0, got -1"),
        (lambda: Digits(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: Digits(seed=-1), "seed must be at least 0, got -1"),
    ],
)
def test_constructors_check_their_arguments(construct: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        construct()


@pytest.mark.parametrize(
    "method", ["split", "evaluation_dataloader", "trivial_baseline", "references"]
)
def test_unknown_splits_are_refused(method: str, small_g2p: G2P) -> None:
    with pytest.raises(ValueError, match="one of train, validation, test, got 'val'"):
        getattr(small_g2p, method)("val")


def test_a_probe_has_from_one_example_to_all_examples(small_g2p: G2P) -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        small_g2p.probe(0)
    assert len(small_g2p.probe(51).source) == len(small_g2p.split("validation").source) == 50


@pytest.mark.parametrize("name", ["small_g2p", "digits"])
def test_setup_loads_once(name: str, request: pytest.FixtureRequest) -> None:
    data: G2P | Digits = request.getfixturevalue(name)
    before = data.split("train")
    data.setup("test")
    assert data.split("train") is before


@pytest.mark.parametrize("name", ["small_g2p", "digits"])
def test_the_trivial_baseline_has_the_monitored_metric(
    name: str, request: pytest.FixtureRequest
) -> None:
    data: G2P | Digits = request.getfixturevalue(name)
    assert data.monitor in data.trivial_baseline("validation")


@pytest.mark.parametrize("module", [slices, vocabulary, sequence_metrics])
def test_examples_in_docstrings(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert failed == 0 < tried


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, attention_lab.data; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize("lacking", ["validation", "test"])
def test_a_split_without_examples_is_named(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Digits()
    load = data.load
    monkeypatch.setattr(
        data, "load", lambda: {name: rows for name, rows in load().items() if name != lacking}
    )
    with pytest.raises(ValueError, match=f"Digits has no {lacking} examples"):
        data.setup()
