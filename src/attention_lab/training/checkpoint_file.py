"""The file of a checkpoint: whole, and to the byte what was written, or not taken.

It is a zip archive, as ``torch.save`` makes it and ``torch.load`` reads it, whose comment holds the
SHA-256 of all of it: of what torch wrote, where the archive ends without a comment.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

_MARK = b"attention-lab sha256 "
#: How a zip archive ends that has no comment: with the comment's length.
_NO_COMMENT = b"\0\0"
_DIGEST_SIZE = 2 * hashlib.sha256().digest_size  # in hexadecimal digits
_CHUNK = 1 << 20


class Damaged(RuntimeError):
    """A checkpoint is not what was written."""


def write(checkpoint: dict[str, Any], path: Path, before: Path | None = None) -> None:
    """Write beside the target, flush to disk, then rename.

    Whatever happens, there is a whole checkpoint: at its path or, at worst, where the one before
    goes.

    Args:
        checkpoint: tensors and plain data.
        path: the file; its directory is made if need be.
        before: where the checkpoint goes that is there already; None means nowhere.

    Raises:
        OSError: if it cannot be written; then what was there before is there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w+b") as file:
            _save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.exists():
            path.replace(before)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """See to it that what was renamed in a directory outlasts a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """What a checkpoint holds.

    Args:
        path: the file.
        map_location: where its tensors go.

    Raises:
        Damaged: if it is not what was written.
        UnpicklingError: if it holds code, which is not run.
    """
    with path.open("rb") as file:
        if (flaw := _flaw(file)) is not None:
            raise Damaged(f"{path} {flaw}")
        file.seek(0)
        # A checkpoint is data, whoever made it: never unpickle code.
        kept: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
        return kept


class _Hashed:
    """A file that is written to from beginning to end, and the checksum of that."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.checksum = hashlib.sha256()
        #: What kept it from being written.
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.checksum.update(data)
        return written

    def flush(self) -> None:
        self.file.flush()


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    hashed = _Hashed(file)
    try:
        torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # it needs no more of a file
    except RuntimeError as error:
        raise hashed.error or error from None  # torch only says that it could not
    file.seek(-len(_NO_COMMENT), os.SEEK_END)
    file.write(_ending(hashed.checksum.hexdigest()))


def _ending(digest: str) -> bytes:
    """What comes in place of the archive's end without a comment."""
    comment = _MARK + digest.encode()
    return len(comment).to_bytes(2, "little") + comment


def _flaw(file: BinaryIO) -> str | None:
    """What is wrong with the bytes of a checkpoint."""
    size = len(_ending("0" * _DIGEST_SIZE))
    left = file.seek(0, os.SEEK_END) - size
    file.seek(max(0, left))
    ending = file.read()
    if left < 0 or not ending[2:].startswith(_MARK):
        return "has no checksum: it was cut off, or another version has written it"
    checksum = hashlib.sha256()
    file.seek(0)
    while left:
        chunk = file.read(min(left, _CHUNK))
        checksum.update(chunk)
        left -= len(chunk)
    checksum.update(_NO_COMMENT)
    return None if ending == _ending(checksum.hexdigest()) else "is damaged: its checksum is wrong"
