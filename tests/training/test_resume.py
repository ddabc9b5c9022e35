"""A run that was interrupted goes on, and ends as if nothing had happened, bit for bit."""

import csv
import json
import multiprocessing
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_lab.recording.run_directory import RunExists
from attention_lab.training import fitting
from attention_lab.training import run as run_module
from attention_lab.training.building import build
from attention_lab.training.checkpoint_file import Damaged, read, write
from attention_lab.training.checkpointing import newest
from attention_lab.training.objective import Objective
from attention_lab.training.random_states import random_states, restore_random_states
from attention_lab.training.run import train
from tests.conftest import Compose
from tests.training.conftest import read_status, read_weights, same_weights

#: What says how long it took, and how much memory a process had.
MEASURED = ("seconds", "tokens_per_second", "peak_memory_bytes")


def result(directory: Path) -> dict[str, Any]:
    """A run's result, without what is measured."""
    fields: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return {name: value for name, value in fields.items() if name not in MEASURED}


def rows(directory: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv as they are written, without the speed."""
    with (directory / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "train/tokens_per_second"} for row in found]


def page(directory: Path) -> str:
    """The page of a run's attention maps, without the run's name."""
    text = (directory / "attention" / "attention.html").read_text("utf-8")
    return text.replace(directory.name, "run")


def assert_identical(directory: Path, whole: Path) -> None:
    """Everything that a run leaves behind is what the uninterrupted one has left."""
    for checkpoint in ("best", "last"):
        weights = read_weights(directory, checkpoint)
        assert same_weights(weights, read_weights(whole, checkpoint)), checkpoint
    assert rows(directory) == rows(whole)
    assert result(directory) == result(whole)
    assert page(directory) == page(whole)
    there, here = ({path.name for path in run.rglob("*")} for run in (whole, directory))
    assert here - {"log.txt"} == there


#: 13 steps an epoch, validated after every fifth step and the last, with dropout.
OPTIONS = (
    "attention.dropout=0.2",
    "data.batch_size=100",
    "trainer.max_epochs=2",
    "trainer.validate_every=0.4",
    "trainer.log_every=3",
)


@pytest.fixture(scope="module")
def config(tiny_digits: Compose) -> dict[str, Any]:
    return tiny_digits(*OPTIONS)


@pytest.fixture(scope="module")
def whole(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    train(config, directory, [])
    return directory


class Cut(Exception):
    """What ends a run."""


def raise_cut(*_: Any) -> NoReturn:
    raise Cut


Interrupt = Callable[[int], None]


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Makes the next run end after some number of steps, counted from its beginning."""
    step = Objective.training_step

    def interrupt(steps: int) -> None:
        def training_step(self: Objective, batch: Any, batch_index: int) -> Tensor:
            if self.global_step == steps:
                monkeypatch.setattr(Objective, "training_step", step)
                raise Cut
            return step(self, batch, batch_index)

        monkeypatch.setattr(Objective, "training_step", training_step)

    return interrupt


def train_until_cut(config: dict[str, Any], directory: Path) -> None:
    with pytest.raises(Cut):
        train(config, directory, [])


@pytest.mark.parametrize("steps", [[2], [5], [6, 8, 13], [16, 25]])
def test_a_run_that_was_cut_off_ends_bit_for_bit_as_if_it_had_not(
    steps: list[int],
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    cut_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in steps:
        cut_after(number)
        train_until_cut(config, tmp_path / "run")
        torch.rand(7), np.random.rand(7), random.random()  # another process draws other numbers
    again = config | {"logger": {**config["logger"], "project": "another"}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(again, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)
    said = capsys.readouterr().out
    assert ("begins again" in said) == (steps == [2])
    assert ("goes on from" in said) == (steps != [2])
    assert len(read_status(tmp_path / "run")["resumed"]) == len(steps)


def in_a_process(config: dict[str, Any], directory: Path) -> None:
    torch.set_num_threads(1)
    train(config, directory, [])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_killed_run_ends_bit_for_bit_as_if_it_had_not(
    seed: int, config: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    """SIGKILL, which no process hears of, at a moment by chance."""
    chance, directory = random.Random(seed), tmp_path / "run"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attention_lab.training.run"])
    process = context.Process(target=in_a_process, args=(config, directory))
    process.start()
    metrics, enough = directory / "metrics.csv", chance.randrange(len(rows(whole)))
    while not metrics.exists() or metrics.read_bytes().count(b"\n") <= enough:
        assert process.is_alive()
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.03))
    process.kill()
    process.join()
    if read_status(directory)["status"] != "finished":
        train(config, directory, [])
        assert len(read_status(directory)["resumed"]) == 1
    assert_identical(directory, whole)


@pytest.mark.parametrize("after", ["fit", "result"])
def test_a_run_that_was_cut_off_after_training_does_not_train_again(
    after: str,
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cut_after: Interrupt,
) -> None:
    with monkeypatch.context() as patch:
        if after == "fit":
            patch.setattr(run_module, "evaluate", raise_cut)
        else:
            patch.setattr(run_module.RunRecord, "_end", raise_cut)
        train_until_cut(config, tmp_path / "run")
    cut_after(26)  # would end it if it went beyond
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("options", "cut", "most"),
    [
        (["trainer.max_steps=17"], 8, 17),
        (["trainer.patience=2", "optimizer.lr=0.3", "trainer.max_epochs=5"], 7, 64),
        (["trainer.validate_every=1.0"], 14, 26),
    ],
)
def test_however_long_a_run_trains_and_whenever_it_validates(
    options: list[str],
    cut: int,
    most: int,
    tiny_digits: Compose,
    tmp_path: Path,
    cut_after: Interrupt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_digits(*OPTIONS, *options)
    train(config, tmp_path / "whole" / "run", [])
    assert cut < result(tmp_path / "whole" / "run")["steps"] <= most
    cut_after(cut)
    train_until_cut(config, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", raise_cut)  # after training
        train_until_cut(config, tmp_path / "run")
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


def test_sequences_go_on_as_well(tiny: Compose, tmp_path: Path, cut_after: Interrupt) -> None:
    """Batches of many lengths, smoothed labels, greedy decoding in validation, and dropout."""
    options = ["model.dropout=0.3", "data.batch_size=32", "trainer.validate_every=0.3"]
    config = tiny("attention=additive", *options)
    train(config, tmp_path / "whole" / "run", [])
    for number in (5, 9):
        cut_after(number)
        train_until_cut(config, tmp_path / "run")
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


def test_a_terminal_shows_a_bar_also_of_a_run_that_goes_on(
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    cut_after: Interrupt,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(fitting, "sys", terminal)
    config = config | {"trainer": {**config["trainer"], "progress": True}}
    cut_after(7)
    train_until_cut(config, tmp_path / "run")
    train(config, tmp_path / "run", [])
    assert "Epoch 1/1" in capsys.readouterr().out
    assert_identical(tmp_path / "run", whole)


# Checkpoints that are not whole


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def write_as_once(path: Path) -> None:
    """As Lightning alone would have written it."""
    kept = read(path)
    del kept["attention_lab"]
    write(kept, path)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, write_as_once])
def test_what_is_not_whole_is_passed_over(
    damage: Callable[[Path], None], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "checkpoints", tmp_path, dirs_exist_ok=True)
    last, previous, best = (tmp_path / f"{name}.ckpt" for name in ("last", "previous", "best"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest(tmp_path) == last
    for path, next_best in ((last, previous), (previous, best), (best, None)):
        damage(path)
        with pytest.warns(UserWarning, match=r"\.ckpt .*; it is passed over$") as said:
            assert newest(tmp_path) == next_best
        assert any(str(path) in str(warning.message) for warning in said)
        assert all("\n" not in str(warning.message) for warning in said)


@pytest.mark.parametrize(
    ("last", "previous", "best", "chosen"),
    [
        ((15, 15), (10, 5), (5, 5), "last"),  # the process died before it made it the best
        ((15, 5), (10, 5), (5, 5), "last"),
        ((15, None), None, None, "last"),  # there was no validation yet
        (None, (10, 5), (5, 5), "previous"),
        (None, (10, 10), (15, 15), "best"),  # it is newer
        ((20, 15), (15, 15), (10, 10), "previous"),  # the best was never saved as such
        ((25, 15), (20, 15), (10, 10), "best"),  # nor is it elsewhere
        ((25, 15), (20, 15), None, None),
    ],
)
def test_the_newest_is_chosen_that_is_whole_and_has_its_best(
    last: tuple[int, int | None] | None,
    previous: tuple[int, int | None] | None,
    best: tuple[int, int | None] | None,
    chosen: str | None,
    tmp_path: Path,
) -> None:
    for name, steps in (("last", last), ("previous", previous), ("best", best)):
        path = tmp_path / f"{name}.ckpt"
        step, best_step = steps or (0, 0)
        write({"global_step": step, "attention_lab": {"best_step": best_step}}, path)
        if steps is None:
            truncate(path)
    with warnings.catch_warnings(record=True) as said:
        assert newest(tmp_path) == (chosen and tmp_path / f"{chosen}.ckpt")
    lost = [str(warning.message) for warning in said if "step 15, which is lost" in str(warning)]
    assert bool(lost) == ((last or (0, 0))[0] >= 20)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of a few thousand bytes."""
    write({"weights": torch.randn(300), "names": ["a", "b"], "global_step": 3}, tmp_path / "ckpt")
    return tmp_path / "ckpt"


def places(content: bytes, count: int) -> list[int]:
    """Where to damage a file: its ends, the padding and headers of the archive in it, by chance."""
    chance = random.Random(len(content))
    parts = [b"PK\3\4", b"PK\1\2", b"PK\5\6", b"FB", b"ZZZZ", b"attention-lab sha256"]
    known = [0, len(content) - 1, *(content.rindex(part) for part in parts)]
    return known + chance.sample(range(len(content)), count - len(known))


def test_a_checkpoint_that_is_cut_off_is_never_taken(small: Path) -> None:
    content = small.read_bytes()
    for length in places(content, 50):
        small.write_bytes(content[:length])
        with pytest.raises(Damaged, match="has no checksum"):
            read(small)


def test_a_checkpoint_with_one_byte_that_is_another_is_never_taken(small: Path) -> None:
    content = bytearray(small.read_bytes())
    for place in places(bytes(content), 50):
        for flip in (1, 0x20, 0xFF):
            content[place] ^= flip
            small.write_bytes(content)
            with pytest.raises(Damaged):
                read(small)
            content[place] ^= flip
    small.write_bytes(content)
    assert read(small)["global_step"] == 3


def test_a_run_goes_back_to_the_checkpoint_before(
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    cut_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "run"
    cut_after(22)
    train_until_cut(config, directory)
    flip_a_bit(directory / "checkpoints" / "last.ckpt")
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged: .*; it is passed over"):
        train(config, directory, [])
    previous = directory / "checkpoints" / "previous.ckpt"
    assert f"goes on from {previous}" in capsys.readouterr().out
    assert_identical(directory, whole)


def test_without_a_whole_later_checkpoint_a_run_goes_on_from_the_best(
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    cut_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "run"
    cut_after(22)
    train_until_cut(config, directory)
    for name in ("last", "previous"):
        truncate(directory / "checkpoints" / f"{name}.ckpt")
    with pytest.warns(UserWarning, match="passed over"):
        train(config, directory, [])
    assert f"goes on from {directory / 'checkpoints' / 'best.ckpt'}" in capsys.readouterr().out
    assert_identical(directory, whole)


def test_without_a_whole_checkpoint_a_run_begins_again(
    config: dict[str, Any], whole: Path, tmp_path: Path, cut_after: Interrupt
) -> None:
    directory = tmp_path / "run"
    cut_after(17)
    train_until_cut(config, directory)
    for name in ("last", "previous", "best"):
        truncate(directory / "checkpoints" / f"{name}.ckpt")
    with pytest.warns(UserWarning, match="passed over"):
        train(config, directory, [])
    assert_identical(directory, whole)


def test_best_is_made_up_for_where_the_process_died_before_it_was_written(
    config: dict[str, Any], whole: Path, tmp_path: Path, cut_after: Interrupt
) -> None:
    best = result(whole)["best_step"]
    directory = tmp_path / "run"
    cut_after(best + 1)
    train_until_cut(config, directory)
    (directory / "checkpoints" / "best.ckpt").unlink()
    cut_after(best + 2)
    train_until_cut(config, directory)
    weights = read_weights(directory, "best")
    assert same_weights(weights, read_weights(whole, "best"))


# What is remembered


def test_times_and_tokens_add_up(
    config: dict[str, Any], tmp_path: Path, cut_after: Interrupt
) -> None:
    directory = tmp_path / "run"
    cut_after(22)
    train_until_cut(config, directory)
    kept = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
    history = kept["callbacks"]["History"]
    started = time.perf_counter()
    result = train(config, directory, [])
    took, seconds = time.perf_counter() - started, result["seconds"]
    assert 0 < history["training_seconds"] < seconds["training"] < seconds["total"]
    assert 0 < history["validation_seconds"] < seconds["validation"]
    assert history["seconds"] < seconds["total"] < history["seconds"] + took
    positions = build(config).data.split("train").lengths().sum()
    trained_on = result["tokens_per_second"] * seconds["training"]
    assert round(trained_on) == config["trainer"]["max_epochs"] * positions


def test_a_finished_run_is_not_trained_again(whole: Path, config: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    with pytest.raises(RunExists, match="has finished"):
        train(config, whole, [])
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_random_numbers_go_on(tmp_path: Path) -> None:
    def draw() -> list[float]:
        gpus = range(torch.cuda.device_count())
        return [
            random.gauss(),
            *np.random.standard_normal(3).tolist(),
            *torch.rand(3).tolist(),
            *(torch.rand((), device=f"cuda:{gpu}").item() for gpu in gpus),
        ]

    draw()
    write(random_states(), tmp_path / "states")
    numbers = draw()
    assert draw() != numbers
    restore_random_states(read(tmp_path / "states"))
    assert draw() == numbers
