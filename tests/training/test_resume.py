"""An interrupted run can be resumed and ends bit-identical to an uninterrupted one."""

import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attention_lab.tracking.run_directory import RunExists
from attention_lab.training import run as run_module
from attention_lab.training.checkpoint.callback import newest
from attention_lab.training.checkpoint.checkpoint_io import Damaged, read, write
from attention_lab.training.checkpoint.rng_state import random_states, restore_random_states
from tests.conftest import Compose
from tests.runs import build, train
from tests.training.conftest import (
    OPTIONS,
    Interrupt,
    assert_identical,
    raise_interrupted,
    read_status,
    read_weights,
    result,
    rows,
    same_weights,
    start_training,
    stops_early,
    train_until_interrupted,
)

WANDB = "attention_lab.tracking.wandb_logger.WandbOptions"


@pytest.mark.parametrize("steps", [[2], [5], [6, 8, 13], [16, 25]])
def test_an_interrupted_run_ends_bit_identical_to_an_uninterrupted_one(
    steps: list[int],
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    interrupt_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in steps:
        interrupt_after(number)
        train_until_interrupted(config, tmp_path / "run")
        torch.rand(7), np.random.rand(7), random.random()  # another process draws other numbers
    again = config | {"logger": {"wandb": {"_target_": WANDB, "mode": "disabled"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(again, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)
    output = capsys.readouterr().out
    assert ("starting over" in output) == (steps == [2])
    assert ("resuming from" in output) == (steps != [2])
    assert len(read_status(tmp_path / "run")["resumed"]) == len(steps)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_killed_run_ends_bit_identical_to_an_uninterrupted_one(
    seed: int, config: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    """SIGKILL, which no process can handle, at a random moment."""
    chance, directory = random.Random(seed), tmp_path / "run"
    process = start_training(config, directory, chance.randrange(len(rows(whole))))
    time.sleep(chance.uniform(0, 0.03))
    process.kill()
    process.join()
    if read_status(directory)["status"] != "finished":
        train(config, directory, [])
        assert len(read_status(directory)["resumed"]) == 1
    assert_identical(directory, whole)


@pytest.mark.parametrize("after", ["fit", "result"])
def test_a_run_interrupted_after_training_does_not_train_again(
    after: str,
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt_after: Interrupt,
) -> None:
    with monkeypatch.context() as patch:
        if after == "fit":
            patch.setattr(run_module, "evaluate", raise_interrupted)
        else:
            patch.setattr(run_module.RunRecord, "_end", raise_interrupted)
        train_until_interrupted(config, tmp_path / "run")
    interrupt_after(26)  # would raise in another training step
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("options", "cut", "most"),
    [
        (["trainer.max_steps=17"], 8, 17),
        ([*stops_early(2), "optimizer.lr=0.3", "trainer.max_epochs=5"], 7, 64),
        (["trainer.val_check_interval=1.0"], 14, 26),
    ],
)
def test_resuming_is_exact_for_all_budgets_and_validation_intervals(
    options: list[str],
    cut: int,
    most: int,
    tiny_digits: Compose,
    tmp_path: Path,
    interrupt_after: Interrupt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_digits(*OPTIONS, *options)
    train(config, tmp_path / "whole" / "run", [])
    assert cut < result(tmp_path / "whole" / "run")["steps"] <= most
    interrupt_after(cut)
    train_until_interrupted(config, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", raise_interrupted)  # after training
        train_until_interrupted(config, tmp_path / "run")
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


def test_resuming_is_exact_for_sequence_to_sequence_runs(
    tiny: Compose, tmp_path: Path, interrupt_after: Interrupt
) -> None:
    """Batches of many lengths, smoothed labels, greedy decoding in validation, and dropout."""
    options = ["model.dropout=0.3", "data.batch_size=32", "trainer.val_check_interval=0.3"]
    config = tiny("attention=additive", *options)
    train(config, tmp_path / "whole" / "run", [])
    for number in (5, 9):
        interrupt_after(number)
        train_until_interrupted(config, tmp_path / "run")
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


def test_a_resumed_run_shows_a_progress_bar_in_a_terminal(
    with_progress_bar: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    interrupt_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupt_after(7)
    train_until_interrupted(with_progress_bar, tmp_path / "run")
    train(with_progress_bar, tmp_path / "run", [])
    assert "elapsed" in capsys.readouterr().out
    assert_identical(tmp_path / "run", whole)


# Damaged checkpoints


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_own_state(path: Path) -> None:
    """Remove the state that Lightning does not save itself."""
    kept = read(path)
    del kept["attention_lab"]
    write(kept, path)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, drop_own_state])
def test_damaged_checkpoints_are_skipped(
    damage: Callable[[Path], None], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "checkpoints", tmp_path, dirs_exist_ok=True)
    last, previous, best = (tmp_path / f"{name}.ckpt" for name in ("last", "previous", "best"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest(tmp_path) == last
    for path, next_best in ((last, previous), (previous, best), (best, None)):
        damage(path)
        with pytest.warns(UserWarning, match=r"\.ckpt .*; it is skipped$") as warned:
            assert newest(tmp_path) == next_best
        assert any(str(path) in str(warning.message) for warning in warned)
        assert all("\n" not in str(warning.message) for warning in warned)


@pytest.mark.parametrize(
    ("last", "previous", "best", "chosen"),
    [
        ((15, 15), (10, 5), (5, 5), "last"),  # the process was killed before it wrote best.ckpt
        ((15, 5), (10, 5), (5, 5), "last"),
        ((15, None), None, None, "last"),  # before the first validation
        (None, (10, 5), (5, 5), "previous"),
        (None, (10, 10), (15, 15), "best"),  # best.ckpt is newer
        ((20, 15), (15, 15), (10, 10), "previous"),  # best.ckpt was not written
        ((25, 15), (20, 15), (10, 10), "best"),  # no checkpoint is of step 15
        ((25, 15), (20, 15), None, None),
    ],
)
def test_the_newest_valid_checkpoint_whose_best_exists_is_chosen(
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
    with warnings.catch_warnings(record=True) as caught:
        assert newest(tmp_path) == (chosen and tmp_path / f"{chosen}.ckpt")
    lost = [str(warning.message) for warning in caught if "step 15, which is lost" in str(warning)]
    assert bool(lost) == ((last or (0, 0))[0] >= 20)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of a few thousand bytes."""
    write({"weights": torch.randn(300), "names": ["a", "b"], "global_step": 3}, tmp_path / "ckpt")
    return tmp_path / "ckpt"


def places(content: bytes, count: int) -> list[int]:
    """Offsets at which to damage a file: its ends, the archive's headers, and random ones."""
    chance = random.Random(len(content))
    parts = [b"PK\3\4", b"PK\1\2", b"PK\5\6", b"FB", b"ZZZZ", b"attention-lab sha256"]
    known = [0, len(content) - 1, *(content.rindex(part) for part in parts)]
    return known + chance.sample(range(len(content)), count - len(known))


def test_a_truncated_checkpoint_is_never_loaded(small: Path) -> None:
    content = small.read_bytes()
    for length in places(content, 50):
        small.write_bytes(content[:length])
        with pytest.raises(Damaged, match="has no checksum"):
            read(small)


def test_a_checkpoint_with_one_changed_byte_is_never_loaded(small: Path) -> None:
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


def test_a_run_falls_back_to_the_previous_checkpoint(
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    interrupt_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "run"
    interrupt_after(22)
    train_until_interrupted(config, directory)
    flip_a_bit(directory / "checkpoints" / "last.ckpt")
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged: .*; it is skipped"):
        train(config, directory, [])
    previous = directory / "checkpoints" / "previous.ckpt"
    assert f"resuming from {previous}" in capsys.readouterr().out
    assert_identical(directory, whole)


def test_a_run_without_valid_later_checkpoints_resumes_from_the_best(
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    interrupt_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "run"
    interrupt_after(22)
    train_until_interrupted(config, directory)
    for name in ("last", "previous"):
        truncate(directory / "checkpoints" / f"{name}.ckpt")
    with pytest.warns(UserWarning, match="is skipped"):
        train(config, directory, [])
    assert f"resuming from {directory / 'checkpoints' / 'best.ckpt'}" in capsys.readouterr().out
    assert_identical(directory, whole)


def test_a_run_without_valid_checkpoints_starts_over(
    config: dict[str, Any], whole: Path, tmp_path: Path, interrupt_after: Interrupt
) -> None:
    directory = tmp_path / "run"
    interrupt_after(17)
    train_until_interrupted(config, directory)
    for name in ("last", "previous", "best"):
        truncate(directory / "checkpoints" / f"{name}.ckpt")
    with pytest.warns(UserWarning, match="is skipped"):
        train(config, directory, [])
    assert_identical(directory, whole)


def test_a_resumed_run_writes_best_if_the_process_was_killed_before_writing_it(
    config: dict[str, Any], whole: Path, tmp_path: Path, interrupt_after: Interrupt
) -> None:
    best = result(whole)["best_step"]
    directory = tmp_path / "run"
    interrupt_after(best + 1)
    train_until_interrupted(config, directory)
    (directory / "checkpoints" / "best.ckpt").unlink()
    interrupt_after(best + 2)
    train_until_interrupted(config, directory)
    weights = read_weights(directory, "best")
    assert same_weights(weights, read_weights(whole, "best"))


# Records of resumed runs


def test_a_resumed_run_includes_earlier_times_and_tokens(
    config: dict[str, Any], tmp_path: Path, interrupt_after: Interrupt
) -> None:
    directory = tmp_path / "run"
    interrupt_after(22)
    train_until_interrupted(config, directory)
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


def test_random_states_are_restored(tmp_path: Path) -> None:
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
