"""Files of a run directory that may come from a stranger, read in bounded time and memory.

Only regular files inside the directory are opened, up to a size limit.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, TextIO

KIB, MIB = 1 << 10, 1 << 20
#: The most bytes of a file that are read, by file name.
LIMITS = {
    ".lock": 4 * KIB,
    "config.yaml": 256 * KIB,
    "slurm.json": MIB,
    "status.json": 4 * MIB,
    "result.json": 16 * MIB,
    "sweep.json": 64 * MIB,
    "maps.json": 64 * MIB,
    "metrics.csv": 256 * MIB,
    "summaries.csv": 256 * MIB,
    "predictions.csv": 256 * MIB,
}
#: The most bytes of any other file, such as an image.
OTHER_LIMIT = 8 * MIB
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class UnreadableRecord(ValueError):
    """A file cannot be read safely. The message is one line, for the user.

    Args:
        path: the file.
        reason: a predicate, such as "is not a regular file".
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.reason = reason


class MalformedRecord(UnreadableRecord):
    """A record is truncated, for example by a power failure, or is not JSON or YAML."""


def open_file(path: Path, root: Path | None = None, limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading, if it is inside its directory and not too large.

    Args:
        path: the file.
        root: the directory that links must not leave; None means the file's own.
        limit: the largest size in bytes; None means the limit for its name.

    Raises:
        FileNotFoundError: if there is no such file.
        NotADirectoryError: if a part of its path is not a directory.
        UnreadableRecord: if it is a FIFO, a device, a link out of the directory or too large.
    """
    root = path.parent if root is None else root
    limit = LIMITS.get(path.name, OTHER_LIMIT) if limit is None else limit
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise UnreadableRecord(path, f"is a symbolic link that leads out of {root}; copy the file")
    try:
        # Without O_NONBLOCK, opening a FIFO blocks until there is a writer.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except NotADirectoryError:
        raise
    except OSError as error:
        raise UnreadableRecord(path, f"cannot be opened: {error.strerror}") from None
    _require_regular(path, descriptor)
    if (size := os.fstat(descriptor).st_size) > limit:
        os.close(descriptor)
        raise UnreadableRecord(path, f"has {size / MIB:.1f} MiB; at most {_size(limit)} are read")
    return os.fdopen(descriptor, "rb")


def open_to_append(path: Path) -> TextIO:
    """Open a file for appending, and create it if missing; links are not followed.

    Raises:
        UnreadableRecord: if it is a link, a FIFO or a device.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise UnreadableRecord(path, "is not a regular file") from None
    _require_regular(path, descriptor)
    return os.fdopen(descriptor, "a+", encoding="utf-8")


def _require_regular(path: Path, descriptor: int) -> None:
    """Close a descriptor and raise UnreadableRecord unless it is of a regular file."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableRecord(path, "is not a regular file")


def _size(limit: int) -> str:
    return f"{limit // MIB} MiB" if limit >= MIB else f"{limit // KIB} KiB"


def read_bytes(path: Path, root: Path | None = None, limit: int | None = None) -> bytes:
    """The content of a file, opened with :func:`open_file`."""
    with open_file(path, root, limit) as file:
        return file.read(LIMITS.get(path.name, OTHER_LIMIT) if limit is None else limit)


def is_png(path: Path, root: Path | None = None) -> bool:
    """Whether a file can be read and has the signature of a PNG image."""
    try:
        with open_file(path, root) as file:
            return file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE
    except (OSError, UnreadableRecord):
        return False


def last_lines(path: Path, root: Path | None = None) -> list[str]:
    """The non-blank lines in the last 64 KiB of a log; none if it cannot be read."""
    try:
        with open_file(path, root, limit=1 << 62) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * KIB))
            text = file.read(64 * KIB).decode("utf-8", errors="replace")
    except (OSError, UnreadableRecord):
        return []
    return [line for line in text.split("\n") if line.strip()]


def link_leading_out(directory: Path, skip: str) -> Path | None:
    """The first symbolic link below a directory that leads out of it; None if there is none.

    Args:
        directory: the directory to search.
        skip: the name of folders to skip.
    """
    root = os.path.realpath(directory)
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if name != skip]
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                return path
    return None
