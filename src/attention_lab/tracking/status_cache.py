"""Repeated reading of the files of many runs: only those that have changed are read again."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from attention_lab.tracking.lock import is_locked
from attention_lab.tracking.run_status import RunStatus, read_status

#: Identifies the content of a file by its inode, size and times; None without a file.
Version = tuple[int, ...] | None
T = TypeVar("T")


class FileCache(Generic[T]):
    """Reads a file of many directories; one that has not changed costs one stat(2).

    Args:
        name: the name of the file.
        read: reads it, given the directory.
        is_valid: whether the content, read earlier, still holds while the file has not changed.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Path], T],
        is_valid: Callable[[Path, T], bool] = lambda directory, content: True,
    ) -> None:
        self.name, self._read, self._is_valid = name, read, is_valid
        self._known: dict[Path, tuple[Version, T]] = {}

    def read(self, directory: Path) -> T:
        """The content of the file in a directory; raises as the function does."""
        version = file_version(directory / self.name)  # first: the file may change meanwhile
        known = self._known.get(directory)
        if known is None or known[0] != version or not self._is_valid(directory, known[1]):
            known = self._known[directory] = version, self._read(directory)
        return known[1]


class StatusCache(FileCache[RunStatus]):
    """Reads statuses like :func:`read_status`, without the results.

    A status whose file has not changed costs one stat(2), and that of a run whose process may end
    at any time also a test of its lock.
    """

    def __init__(self) -> None:
        super().__init__("status.json", _read_status, _is_valid)


def file_version(path: Path) -> Version:
    """The version of a file, which every write to it changes."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read_status(directory: Path) -> RunStatus:
    return replace(read_status(directory), result=None)  # the result may be large


def _is_valid(directory: Path, status: RunStatus) -> bool:
    """Whether a status still holds, given that ``status.json`` has not changed."""
    recorded = status.record.get("status")
    if recorded == "running":
        return is_locked(directory) == (status.state == "running")
    return status.state in ("waiting", recorded)  # otherwise result.json may have come back
