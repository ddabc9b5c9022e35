"""Checkpoints are whole or not there, a failed write is heard of, and none of them is code."""

import os
import pickle
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from attention_lab.training.checkpointing import AtomicCheckpointIO
from attention_lab.training.run import train
from tests.conftest import Compose
from tests.training.conftest import read_status

IO = AtomicCheckpointIO()
OLD, NEW = {"weights": torch.arange(3.0)}, {"weights": torch.randn(100_000)}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A checkpoint that an earlier validation wrote."""
    IO.save_checkpoint(OLD, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def assert_untouched(target: Path) -> None:
    assert torch.equal(IO.load_checkpoint(target)["weights"], OLD["weights"])
    assert [path.name for path in target.parent.iterdir()] == ["last.ckpt"]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    target = tmp_path / "run" / "checkpoints" / "last.ckpt"
    IO.save_checkpoint({"weights": OLD["weights"], "step": 3, "names": ["a"]}, target)
    loaded = IO.load_checkpoint(str(target))
    assert torch.equal(loaded.pop("weights"), OLD["weights"])
    assert loaded == {"step": 3, "names": ["a"]}
    IO.save_checkpoint(NEW, target)
    assert torch.equal(IO.load_checkpoint(target)["weights"], NEW["weights"])
    assert [path.name for path in target.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_on_disk_before_it_takes_its_name(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync") or fsync(file))
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("rename") or replace(*paths))
    IO.save_checkpoint(NEW, target)
    assert done == ["fsync", "rename"]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 10,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_breaks_off_raises_and_leaves_the_old_checkpoint(target: Path) -> None:
    with full_disk(), pytest.raises((OSError, RuntimeError)):
        IO.save_checkpoint(NEW, target)
    assert_untouched(target)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_refused_write_raises_and_leaves_the_old_checkpoint(
    broken: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os if broken == "fsync" else Path, broken, refuse)
        with pytest.raises(PermissionError):
            IO.save_checkpoint(NEW, target)
    assert_untouched(target)


def test_a_directory_that_cannot_be_written_to_raises(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(OSError, match="checkpoints"):
        IO.save_checkpoint(NEW, tmp_path / "checkpoints" / "last.ckpt")


def test_the_temporary_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    IO.save_checkpoint(NEW, tmp_path / "last.ckpt")
    assert torch.equal(IO.load_checkpoint(tmp_path / "last.ckpt")["weights"], NEW["weights"])


class Code:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("weights_only", [None, True, False])
def test_a_checkpoint_that_holds_code_is_refused(tmp_path: Path, weights_only: bool | None) -> None:
    mark = tmp_path / "the code ran"
    torch.save({"state_dict": Code(mark)}, tmp_path / "evil.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        IO.load_checkpoint(tmp_path / "evil.ckpt", weights_only=weights_only)
    assert not mark.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert mark.exists()  # it would have run


def test_a_run_that_cannot_write_its_checkpoint_does_not_finish(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(OSError, match="No space left"):
        train(tiny_digits(), tmp_path / "run", [])
    status = read_status(tmp_path / "run")
    assert status["status"] == "preempted"
    assert status["error"] == "no room left on the disk"
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_run_does_without_a_temporary_directory(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    train(tiny_digits(), tmp_path / "run", [])
    checkpoints = (tmp_path / "run" / "checkpoints").iterdir()
    assert {path.name for path in checkpoints} == {"best.ckpt", "last.ckpt"}
