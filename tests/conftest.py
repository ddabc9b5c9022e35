"""Configs composed as the command composes them, and tiny finished runs that tests share."""

import copy
import functools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.config.compose import composed
from attention_lab.data.bundled import g2p
from attention_lab.data.core import splits
from tests.browser import CHROMIUM, Browser

#: Settings that make a run of a real model on real data take about a second.
TINY = (
    "logger=csv",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "model.d_model=16",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "data.limit=200",
    "data.evaluation_limit=40",
)
#: The same for images of digits, which load faster: 1251 images in 4 batches.
TINY_DIGITS = (
    "logger=csv",
    "experiment=self_attention_classifier",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "attention.head_dim=null",
    "model.d_model=16",
    "data.batch_size=313",
)

Compose = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session", autouse=True)
def receive_signals() -> None:
    """Also where the tests run under ``nohup`` or in a background shell, which ignore them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def import_from_tests() -> Iterator[None]:
    """Lets configs name components of the tests themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, which all tests of pages share."""
    if CHROMIUM is None:
        pytest.skip("chromium is not on PATH")
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@functools.cache
def _compose(overrides: tuple[str, ...]) -> dict[str, Any]:
    return composed(overrides)


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Composes the config of `attention-lab train OVERRIDES…`."""
    return lambda *overrides: copy.deepcopy(_compose(overrides))


@pytest.fixture(scope="session")
def tiny(compose: Compose) -> Iterator[Compose]:
    """Composes a tiny run on words; overrides go on top.

    Reading the dictionary takes longer than such a run, so it is read once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(g2p, "read_cmudict", functools.cache(g2p.read_cmudict))
        patch.setattr(splits, "stable_fraction", functools.cache(splits.stable_fraction))
        yield lambda *overrides: compose(*TINY, *overrides)


@pytest.fixture(scope="session")
def tiny_digits(compose: Compose) -> Compose:
    """Composes a tiny run on digits, which takes a third of a second; overrides go on top."""
    return lambda *overrides: compose(*TINY_DIGITS, *overrides)


@dataclass(frozen=True)
class FinishedRun:
    """A run that tests may read but must not change."""

    directory: Path
    config: dict[str, Any]
    overrides: list[str]
    result: dict[str, Any]


def _finished(directory: Path, config: dict[str, Any], overrides: list[str]) -> FinishedRun:
    from tests.runs import train

    return FinishedRun(directory, config, overrides, train(config, directory, overrides))


@pytest.fixture(scope="session")
def words_run(tiny: Compose, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A finished run of an encoder–decoder on words: 2 epochs of 2 steps, seed 1."""
    overrides = ["attention=additive", "seed=1"]
    directory = tmp_path_factory.mktemp("sweep") / "words"
    return _finished(directory, tiny(*overrides), overrides)


@pytest.fixture(scope="session")
def digits_run(tiny_digits: Compose, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A finished run of a classifier on digits: 5 epochs of 4 steps, on a bumpy way."""
    overrides = ["trainer.max_epochs=5", "optimizer.lr=0.2", "seed=2"]
    directory = tmp_path_factory.mktemp("sweep") / "digits"
    return _finished(directory, tiny_digits(*overrides), overrides)


@pytest.fixture(autouse=True)
def _own_randomness() -> None:
    """Every test draws its own random numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of texts is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
