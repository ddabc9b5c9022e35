"""A lock on a directory, which the kernel releases when the process that holds it ends.

(filelock cannot test a lock without write access, and does not say which process holds it.)
"""

import fcntl
import os
import socket
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

from attention_lab.tracking.untrusted_files import UnreadableRecord, open_file, open_to_append

LOCK = ".lock"  # never removed: two processes could then lock two files of this name
RECENT_SECONDS = 60.0  # a status.json counts as recent for this time after a write


class Locked(RuntimeError):
    """Another process holds the lock. The message says which one."""


class Lock:
    """An exclusive flock(2) on the file ``.lock`` of a directory; raises Locked if it is taken.

    It waits up to ``patience`` seconds, because :func:`is_locked` holds the lock for a moment.
    """

    def __init__(self, directory: Path, patience: float = 0.5) -> None:
        try:
            self._file = open_to_append(directory / LOCK)
        except UnreadableRecord as error:
            raise Locked(f"its {LOCK} {error.reason}; remove it") from None
        deadline = time.monotonic() + patience
        while not self._acquire(directory):
            if time.monotonic() >= deadline:
                owner = os.pread(self._file.fileno(), 200, 0).decode(errors="replace").strip()
                self._file.close()
                raise Locked(f"locked by {owner or 'another process'}")
            time.sleep(0.005)

    def _acquire(self, directory: Path) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # the file systems of some clusters have no locks
            message = f"{directory} cannot be locked ({error.strerror})"
            warnings.warn(f"{message}; make sure that only one process trains there", stacklevel=4)
        return True

    def write_owner(self) -> None:
        """Write the id of this process into the lock file, for messages of other processes."""
        self._file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        self._file.flush()

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


def is_locked(directory: Path) -> bool:
    """Whether a process holds the lock or, where locks do not work, status.json is recent."""
    try:
        with open_file(directory / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            owner = file.read().decode(errors="replace")
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except (OSError, UnreadableRecord):
        owner = "unknown"
    if not owner or f" on {socket.gethostname()} since " in owner:
        return False
    status = directory / "status.json"  # the lock of another host may be invisible here
    return status.exists() and time.time() - status.stat().st_mtime < RECENT_SECONDS
