"""A lock that vanishes with the process that holds it, however that ends."""

import fcntl
import json
import os
import socket
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

from attention_lab.tracking.record_files import (
    UnreadableRecord,
    open_file,
    open_to_append,
    read_json,
)

#: The file in a directory that is locked.
LOCK = ".lock"
#: Seconds of silence after which a process is taken for dead where there are no locks.
HEARTBEAT = 60.0


class Locked(RuntimeError):
    """Another process holds the lock. The message says who."""


class Lock:
    """An exclusive lock (flock(2)) on a directory, in which a file says who holds it.

    The kernel lets go of it when the process ends, so there are no stale ones: that the file is
    there means nothing. It stays, as to remove it would let two processes lock two files of the
    same name.

    Args:
        directory: what is locked; its file ``.lock`` is made if it does not exist.
        patience: seconds to wait for it, as who looks whether it is held has it for a moment.

    Raises:
        Locked: if another process holds it.
    """

    def __init__(self, directory: Path, patience: float = 0.5) -> None:
        path = directory / LOCK
        try:
            self._file = open_to_append(path)
        except UnreadableRecord as error:
            raise Locked(f"its {path.name} {error.reason}; remove it") from None
        try:
            self._acquire(patience)
        except BlockingIOError:
            holder = _holder(path)
            self._file.close()
            raise Locked(f"{holder} is at work here") from None
        except OSError as error:  # as of some cluster's file system
            message = f"{path.parent} cannot be locked ({error.strerror}); "
            warnings.warn(message + "see to it that only one process trains there", stacklevel=3)

    def _acquire(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.005)

    def sign(self) -> None:
        """Say in the file who holds the lock: once it is clear that one stays."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
        self._file.truncate(0)
        self._file.write(json.dumps(holder) + "\n")
        self._file.flush()

    def release(self) -> None:
        """Let go of the lock."""
        self._file.close()


def _holder(path: Path) -> str:
    try:
        holder = read_json(path)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (OSError, UnreadableRecord, KeyError, TypeError):  # it has only just begun
        return "another process"


def is_held(directory: Path) -> bool:
    """Whether a process is at work in a directory, which holds its ``.lock``.

    Where the file system knows no locks, or not those of another host, it is if ``status.json``
    has been written of late.
    """
    path = directory / LOCK
    try:
        with open_file(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            holder = file.read().decode(errors="replace")
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except (OSError, UnreadableRecord):
        return _is_fresh(directory / "status.json")
    is_elsewhere = bool(holder) and f'"{socket.gethostname()}"' not in holder
    return is_elsewhere and _is_fresh(directory / "status.json")


def _is_fresh(status: Path) -> bool:
    return status.exists() and time.time() - status.stat().st_mtime < HEARTBEAT
