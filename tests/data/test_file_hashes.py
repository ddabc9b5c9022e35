"""Hashes of data files are cached until a file may have changed."""

import hashlib
import os
from pathlib import Path

import pytest

from attention_lab.data.files import file_hashes
from attention_lab.data.files.cache import cache_directory
from attention_lab.data.files.file_hashes import sha256

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read; all count as large, and each call stands for a new process."""
    files: list[Path] = []
    digest = file_hashes._digest

    def read(path: Path) -> str:
        files.append(path)
        return digest(path)

    monkeypatch.setattr(file_hashes, "LARGE", 0)
    monkeypatch.setattr(file_hashes, "_digest", read)
    monkeypatch.setattr(file_hashes, "_sha256", file_hashes._sha256.__wrapped__)
    return files


@pytest.mark.parametrize("held", [b"", b"a\tb\n", b"x" * 100_000])
def test_sha256_equals_that_of_hashlib(held: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(held)
    assert sha256(path) == hashlib.sha256(held).hexdigest()
    assert not cache_directory().exists()  # a small file is read each time


def test_a_large_file_is_read_once(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    assert sha256(path) == sha256(path) == hashlib.sha256(b"one").hexdigest()
    assert read == [path]


def test_a_changed_file_is_hashed_again(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    before, times = sha256(path), path.stat()
    path.write_text("two")  # of the same size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # and, it says, as old
    assert sha256(path) == hashlib.sha256(b"two").hexdigest() != before
    assert read == [path, path]


@pytest.mark.parametrize("damaged", ["", "ab" * 31, "z" * 64])
def test_a_damaged_cache_entry_is_replaced(damaged: str, tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    right = sha256(path)
    (entry,) = (cache_directory() / "sha256").iterdir()
    entry.write_text(damaged)
    assert sha256(path) == sha256(path) == right
    assert read == [path, path]


def test_without_a_cache_a_large_file_is_read_each_time(tmp_path: Path, read: list[Path]) -> None:
    (tmp_path / "cache").touch()  # where a directory should be
    path = tmp_path / "file"
    path.write_text("one")
    assert sha256(path) == sha256(path)
    assert len(read) == 2


def test_only_regular_files_have_a_hash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="is not a regular file"):
            sha256(path)
    with pytest.raises(FileNotFoundError):
        sha256(tmp_path / "missing")
