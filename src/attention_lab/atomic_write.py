"""Atomic file writes: a reader finds the old file or the new one, never a part of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Pattern of the temporary files that killed processes leave behind.
PARTIAL_FILES = ".*.partial"


@contextmanager
def replacing(path: Path, durable: bool = True, backup: Path | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``, and rename it to ``path`` when the block ends.

    If the block raises, ``path`` is unchanged.

    Args:
        path: the file to replace or create.
        durable: whether to flush to disk, so that the write survives a power failure; this takes
            milliseconds.
        backup: the new name of the file that ``path`` replaces; None to discard that file.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # it may be a link, which must not be written through
    try:
        with partial.open("x+b") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if backup is not None and path.exists():
            path.replace(backup)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Replace a file by one that holds ``text`` in UTF-8, as :func:`replacing` does."""
    with replacing(path, durable) as file:
        file.write(text.encode())
