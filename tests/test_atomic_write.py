"""A file is replaced as a whole or not at all."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from attention_lab.atomic_write import write_atomically


def test_text_is_written_unchanged(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "e²\n")
    write_atomically(tmp_path / "file", "Bahdanau · √d\n")
    assert (tmp_path / "file").read_bytes() == "Bahdanau · √d\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_atomically(file, "old")

    def break_off(_: int) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", break_off)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "newer")
    assert file.read_text() == "old"


def test_a_reader_never_finds_half_a_file(tmp_path: Path) -> None:
    file, texts = tmp_path / "file", ["a" * 500_000, "b" * 700_000]
    write_atomically(file, texts[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(60):
            write_atomically(file, texts[turn % 2])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = set()
        while not done.is_set() and not writing.done():
            seen.add(file.read_text())
        writing.result()
    assert seen <= set(texts)


def test_durable_writes_are_flushed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync"))
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("rename") or replace(*paths))
    write_atomically(tmp_path / "file", "text")
    write_atomically(tmp_path / "file", "text", durable=False)
    assert done == ["fsync", "rename", "rename"]
