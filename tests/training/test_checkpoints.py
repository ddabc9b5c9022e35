"""Checkpoints are written completely or not at all, and no code in them is executed."""

import hashlib
import io
import json
import os
import pickle
import resource
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from attention_lab.tracking.record_files import with_version
from attention_lab.training.checkpoint import checkpoint_io
from attention_lab.training.checkpoint.callback import AtomicCheckpointIO, newest
from attention_lab.training.checkpoint.checkpoint_io import Damaged, read, write
from tests.conftest import Compose
from tests.runs import train
from tests.training.conftest import Refuse, read_status, read_weights, same_weights

OLD, NEW = {"weights": torch.arange(3.0)}, {"weights": torch.randn(100_000)}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A checkpoint that an earlier validation wrote."""
    write(OLD, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def holds(path: Path, checkpoint: dict[str, Any]) -> bool:
    return torch.equal(read(path)["weights"], checkpoint["weights"])


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def assert_untouched(target: Path) -> None:
    assert holds(target, OLD)
    assert names(target.parent) == {"last.ckpt"}


def test_loading_returns_the_saved_checkpoint(tmp_path: Path) -> None:
    target = tmp_path / "run" / "checkpoints" / "last.ckpt"
    write({"weights": OLD["weights"], "step": 3, "names": ["a"]}, target)
    loaded = read(target)
    assert torch.equal(loaded.pop("weights"), OLD["weights"])
    assert loaded == {"step": 3, "names": ["a"]}
    write(NEW, target)
    assert holds(target, NEW)
    assert names(target.parent) == {"last.ckpt"}


def test_torch_and_zipfile_read_a_checkpoint(target: Path) -> None:
    """PyTorch and zip tools read it; the checksum is that of torch's bytes."""
    assert torch.equal(torch.load(target)["weights"], OLD["weights"])
    with zipfile.ZipFile(target) as archive:
        comment = archive.comment
        assert archive.testzip() is None
    alone = target.read_bytes()[: -len(comment) - 2] + bytes(2)
    assert comment.decode() == f"attention-lab sha256 {hashlib.sha256(alone).hexdigest()}"


def test_a_checkpoint_is_flushed_before_it_is_renamed(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def renamed(path: Path, to: Path) -> Path:
        done.append(f"{path.name} to {to.name}")
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync") or fsync(file))
    monkeypatch.setattr(Path, "replace", renamed)
    write(NEW, target, target.with_name("previous.ckpt"))
    moved = "last.ckpt to previous.ckpt"
    assert done == ["fsync", moved, f".last.ckpt.{os.getpid()}.partial to last.ckpt", "fsync"]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 10,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_incomplete_write_raises_and_keeps_the_old_checkpoint(target: Path) -> None:
    with full_disk(), pytest.raises(OSError, match="too large"):
        write(NEW, target, target.with_name("previous.ckpt"))
    assert_untouched(target)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_refused_write_raises_and_keeps_the_old_checkpoint(
    broken: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os if broken == "fsync" else Path, broken, refuse)
        with pytest.raises(PermissionError):
            write(NEW, target)
    assert_untouched(target)


def test_an_unwritable_directory_raises(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(OSError, match="checkpoints"):
        write(NEW, tmp_path / "checkpoints" / "last.ckpt")


# Saving and loading by Lightning


def test_the_previous_checkpoint_is_kept_if_it_is_valid(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint(OLD, last)
    io.save_checkpoint(NEW, last)
    assert holds(last, NEW)
    assert holds(previous, OLD)
    last.write_bytes(b"damaged")
    io = AtomicCheckpointIO()  # of a resumed process
    io.load_checkpoint(previous)
    io.save_checkpoint(NEW, last)
    assert holds(last, NEW)
    assert holds(previous, OLD)
    io.save_checkpoint(OLD, last)
    assert holds(previous, NEW)


def test_a_failed_save_raises_and_keeps_both_checkpoints(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint(OLD, last)
    io.save_checkpoint(OLD, last)
    with full_disk(), pytest.warns(UserWarning, match=r"last.ckpt .* step 7 \(File too large\)"):
        io.save_checkpoint(NEW | {"global_step": 7}, last)
    assert isinstance(io.failure, OSError)
    assert holds(last, OLD)
    assert holds(previous, OLD)
    io.save_checkpoint(NEW, last)
    assert io.failure is None
    assert holds(last, NEW)


def test_writing_does_not_use_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    write(NEW, tmp_path / "last.ckpt")
    assert holds(tmp_path / "last.ckpt", NEW)


class Code:
    """Executes code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("weights_only", [None, True, False])
def test_a_checkpoint_with_code_is_refused(tmp_path: Path, weights_only: bool | None) -> None:
    mark = tmp_path / "the code ran"
    write({"state_dict": Code(mark)}, tmp_path / "evil.ckpt")
    with pytest.raises(Damaged, match=r"evil\.ckpt holds Python objects .*; not loaded$") as error:
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=weights_only)
    assert "weights_only" not in str(error.value)  # torch advises to switch it off
    assert "\n" not in str(error.value)
    assert not mark.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert mark.exists()  # it would have run


def seal(path: Path, content: bytes) -> None:
    """Write an archive with its checksum, as anybody can."""
    assert content.endswith(bytes(2))  # it has no comment
    comment = b"attention-lab sha256 " + hashlib.sha256(content).hexdigest().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[:-2] + len(comment).to_bytes(2, "little") + comment)


class Sized:
    """Pickled as a bytearray whose size is a number in the file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (50_000_000_000,)


def inflating(compression: int) -> bytes:
    """A small compressed archive with a very large tensor."""
    file = io.BytesIO()
    torch.save(with_version({"weights": torch.zeros(2)}), file)
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(file) as archive,
        zipfile.ZipFile(bomb, "w", compression, compresslevel=9) as other,
    ):
        for member in archive.infolist():
            large = member.filename.endswith("data/0")
            other.writestr(member.filename, bytes(10**8) if large else archive.read(member))
    return bomb.getvalue()


def overlapping() -> bytes:
    """An archive that lists the same bytes many times."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", bytes(10_000))
        archive.filelist += [archive.filelist[-1]] * 1000
    return file.getvalue()


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def packed(data: bytes, before: bytes = b"") -> bytes:
    """An archive with this pickle, after other bytes."""
    file = io.BytesIO(before)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def behind_another_format() -> bytes:
    """An archive that torch reads from the beginning and zipfile from the end."""
    file = io.BytesIO()
    torch.save(with_version({"a": Sized()}), file, _use_new_zipfile_serialization=False)
    return packed(pickle.dumps({}, protocol=2), before=file.getvalue())


def behind_another_archive() -> bytes:
    """Two archives, of which torch reads the first, and zipfile the second."""
    unsafe = pickle.dumps(with_version({"a": Sized()}), protocol=2)
    harmless = pickle.dumps({}, protocol=2)
    return packed(unsafe) + packed(harmless + bytes(len(unsafe) - len(harmless)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: saved(with_version({"a": Sized()})).replace(b"/data.pkl", b"/Data.PKL"),
            "holds a bytearray",
        ),
        (behind_another_format, "is not an archive of torch's"),
        (behind_another_archive, "is not an archive of torch's"),
        (lambda: inflating(zipfile.ZIP_DEFLATED), "is compressed"),
        (lambda: inflating(zipfile.ZIP_LZMA), "is compressed"),
        (overlapping, "claims to hold more than"),
        (lambda: saved(with_version({"a": Sized()})), "holds a bytearray"),
        (lambda: saved([1, 2]), "holds no mapping"),
        (lambda: saved({"a": 1}), "has no schema_version"),
        (lambda: saved({"schema_version": 2}), "has schema_version 2, and this release reads 1"),
        (lambda: b"no archive" + bytes(200), "is not an archive of torch's"),
    ],
)
def test_an_invalid_checkpoint_is_refused_in_one_line(
    make: Callable[[], bytes], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints" / "best.ckpt"
    seal(path, make())
    tracemalloc.start()
    with pytest.raises(Damaged, match=reason) as error:
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
    assert str(error.value).startswith(f"{path} ")
    assert "\n" not in str(error.value)


def test_an_archive_with_too_many_members_is_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "best.ckpt"
    seal(path, saved(with_version({"a": torch.zeros(2)})))
    read(path)
    monkeypatch.setattr(checkpoint_io, "_LARGEST_DIRECTORY", 100)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(Damaged, match="lists too many members"):
        read(path)


@pytest.mark.parametrize("kind", ["fifo", "link", "device", "directory", "loop", "folder"])
def test_a_checkpoint_must_be_a_regular_file_of_the_run(
    kind: str, target: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "checkpoints" / target.name
    (tmp_path / "run").mkdir()
    if kind == "folder":
        path.parent.symlink_to(target.parent)
    else:
        path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind != "folder":
        path.symlink_to({"link": target, "device": "/dev/zero", "loop": path}[kind])
    with pytest.raises(Damaged):
        read(path)
    if kind != "loop":  # a link to itself: the file does not exist
        with pytest.warns(UserWarning, match="is skipped"):
            assert newest(path.parent) is None


#: Validated after the steps 2, 4, 6 and 8.
SHORT = ("trainer.val_check_interval=0.5", "trainer.max_epochs=2")
NOT_SAVED = "ignore:.*checkpoint:UserWarning"


@pytest.mark.filterwarnings(NOT_SAVED)
def test_a_run_that_cannot_save_any_checkpoint_does_not_finish(
    tiny_digits: Compose, tmp_path: Path, refuse_to_save: Refuse
) -> None:
    refuse_to_save(range(100))
    with pytest.raises(OSError, match="No space left"):
        train(tiny_digits(*SHORT), tmp_path / "run", [])
    status = read_status(tmp_path / "run")
    assert status["status"] == "preempted"
    assert status["error"] == "no room left on the disk"
    assert status["progress"]["step"] == 8  # it has trained to the end
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_failed_save_does_not_end_the_run(
    tiny_digits: Compose, tmp_path: Path, refuse_to_save: Refuse
) -> None:
    config = tiny_digits(*SHORT, "optimizer.lr=0.02")
    train(config, tmp_path / "whole", [])
    best = json.loads((tmp_path / "whole" / "result.json").read_text())["best_step"]
    assert best > 2
    refuse_to_save({2})
    with pytest.warns(UserWarning, match="could not be saved") as warned:
        train(config, tmp_path / "run", [])
    assert [str(warning.message) for warning in warned] == [
        f"{tmp_path}/run/checkpoints/last.ckpt could not be saved at step 2 (No space left on "
        "device); the previous checkpoint is kept",
        "failed to save 1 checkpoint(s) (No space left on device); the newest is of step 8",
    ]
    assert read_status(tmp_path / "run")["status"] == "finished"
    for name in ("best", "last"):
        weights = read_weights(tmp_path / "run", name)
        assert same_weights(weights, read_weights(tmp_path / "whole", name))


@pytest.mark.filterwarnings(NOT_SAVED)
def test_a_run_without_its_best_checkpoint_resumes_from_the_last_saved_one(
    tiny_digits: Compose, tmp_path: Path, refuse_to_save: Refuse
) -> None:
    """The later checkpoints refer to a best checkpoint that does not exist."""
    config = tiny_digits(*SHORT, "optimizer.lr=0.3")  # so that the metric gets worse
    train(config, tmp_path / "whole", [])
    best = json.loads((tmp_path / "whole" / "result.json").read_text())["best_step"]
    assert 2 < best < 8
    refuse_to_save({best})
    with pytest.raises(OSError, match="No space left"):
        train(config, tmp_path / "run", [])
    assert read_status(tmp_path / "run")["error"] == "no room left on the disk"
    refuse_to_save({})
    with pytest.warns(
        UserWarning, match=f"refers to the best checkpoint, of step {best}, which is"
    ):
        train(config, tmp_path / "run", [])
    for name in ("best", "last"):
        weights = read_weights(tmp_path / "run", name)
        assert same_weights(weights, read_weights(tmp_path / "whole", name))


def test_a_run_does_not_use_the_temporary_directory(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    train(tiny_digits(), tmp_path / "run", [])
    assert names(tmp_path / "run" / "checkpoints") == {"best.ckpt", "last.ckpt", "previous.ckpt"}
