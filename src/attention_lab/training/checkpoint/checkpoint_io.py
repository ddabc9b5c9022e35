"""Checkpoint files: written atomically, and verified by a checksum before they are loaded.

A file is the zip archive that ``torch.save`` writes and ``torch.load`` reads, with a comment added
at its end: the SHA-256 of the archive without the comment.
"""

import hashlib
import os
import pickletools
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from attention_lab.atomic_write import replacing
from attention_lab.tracking.record_files import with_version
from attention_lab.tracking.record_schema import VERSION_KEY, check_version
from attention_lab.tracking.untrusted_files import MIB, UnreadableRecord, open_file

_MARK = b"attention-lab sha256 "
#: The last bytes of a zip archive without a comment: the length of the comment.
_NO_COMMENT = b"\0\0"
_DIGEST_SIZE = 2 * hashlib.sha256().digest_size  # in hexadecimal digits
_CHUNK = 1 << 20
_ANY_SIZE = 1 << 62
#: The last records of an archive: the end of a zip64 directory, its locator, the end itself.
_SIZE_OF_END = 56 + 20 + 22
#: The maximum size of an archive's directory in bytes; a tensor takes about 100.
_LARGEST_DIRECTORY = 64 * MIB
#: The name of ``bytearray`` in pickles of Python 2 and 3.
_BYTEARRAY = {"__builtin__ bytearray", "builtins bytearray"}


class Damaged(RuntimeError):
    """A checkpoint is corrupt, of another version, or unsafe to load."""


def write(checkpoint: dict[str, Any], path: Path, before: Path | None = None) -> None:
    """Write a checkpoint to a temporary file, flush it to disk, then rename it to its path.

    If the process is killed, the earlier checkpoint remains, at ``path`` or at ``before``.

    Args:
        checkpoint: tensors and plain data.
        path: the file; its directory is created if it does not exist.
        before: the new path of the earlier checkpoint; None means that it is replaced.

    Raises:
        OSError: if it cannot be written; the earlier checkpoint then remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, backup=before) as file:
        _save(with_version(checkpoint), file)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    """Flush a directory to disk, so that a rename in it survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Verify a checkpoint and return its content.

    Args:
        path: the file.
        map_location: the device of the tensors, as in ``torch.load``.

    Raises:
        FileNotFoundError: if there is no such file.
        Damaged: if it is corrupt, has another schema version or is not safe to load: a link out of
            the run, compressed, or with Python objects other than tensors and plain data.
    """
    try:
        with open_file(path, root=path.parent.parent, limit=_ANY_SIZE) as file:
            if (flaw := _flaw(file) or _danger(file)) is not None:
                raise Damaged(f"{path} {flaw}")
            file.seek(0)
            # A checkpoint may come from a stranger: never unpickle code.
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
        if not isinstance(checkpoint, dict):
            raise Damaged(f"{path} holds no mapping")
        check_version(path, checkpoint)
    except UnreadableRecord as error:
        raise Damaged(str(error)) from None
    except UnpicklingError as error:  # torch's own message advises to allow the code
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"Python objects ({name[1]})" if name else "Python objects"
        raise Damaged(f"{path} holds {what}, not only tensors and plain data; not loaded") from None
    del checkpoint[VERSION_KEY]
    return checkpoint


class _Hashed:
    """A file opened for writing that computes the checksum of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.checksum = hashlib.sha256()
        #: The error of a failed write.
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
        torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # torch needs only these methods
    except RuntimeError as error:
        raise hashed.error or error from None  # torch's own error has no cause
    file.seek(-len(_NO_COMMENT), os.SEEK_END)
    file.write(_ending(hashed.checksum.hexdigest()))


def _ending(digest: str) -> bytes:
    """The bytes that replace ``_NO_COMMENT``: the length of the comment, and the comment."""
    comment = _MARK + digest.encode()
    return len(comment).to_bytes(2, "little") + comment


def checksum_of(path: Path) -> str:
    """The checksum stored in a checkpoint, which identifies it; it is not verified.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        UnreadableRecord: if it is a link out of the run, or not a regular file.
    """
    with open_file(path, root=path.parent.parent, limit=_ANY_SIZE) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _DIGEST_SIZE))
        return file.read().decode("ascii", errors="replace")


def _flaw(file: BinaryIO) -> str | None:
    """The error if a checkpoint's checksum is missing or wrong; None if it is right."""
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


def _danger(file: BinaryIO) -> str | None:
    """Why an archive with a valid checksum is unsafe to load; None if it is safe."""
    size = file.seek(0, os.SEEK_END)
    directory = _directory_size(file)
    if directory is None:
        return "is not an archive of torch's"
    if directory > _LARGEST_DIRECTORY:
        return f"lists too many members: more than {_LARGEST_DIRECTORY // MIB} MiB of them"
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                return "is compressed, as torch never writes it; not loaded"
            if sum(member.file_size for member in members) > size:
                return f"claims to hold more than its {size} bytes; not loaded"
            # torch ignores case in the name of its pickle.
            named = [it for it in members if it.filename.lower().endswith("data.pkl")]
            pickles = [archive.read(it) for it in named]
        # A pickle can create a bytearray of any size from a number. torch loads no other such
        # type, and accepts no opcode but GLOBAL for the name of a type.
        has_bytearray = any(
            code.name == "GLOBAL" and name in _BYTEARRAY
            for each in pickles
            for code, name, _ in pickletools.genops(each)
        )
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError):
        # zipfile raises RuntimeError for encrypted members, and its subclass NotImplementedError
        # for unknown compression.
        return "is not an archive of torch's"
    return "holds a bytearray, which may be of any size; not loaded" if has_bytearray else None


def _directory_size(file: BinaryIO) -> int | None:
    """Bytes of the archive's directory, from its last records (APPNOTE.TXT 4.3.14 to 4.3.16).

    None unless the file is a single archive from its first byte to its last. In other files torch
    might find other members than ``zipfile``, or no archive.
    """
    file.seek(0)
    begins = file.read(4) == b"PK\3\4"
    size = file.seek(0, os.SEEK_END)
    start = size - _SIZE_OF_END - len(_ending("0" * _DIGEST_SIZE)) + len(_NO_COMMENT)
    file.seek(max(0, start))
    records = file.read(_SIZE_OF_END)
    if not begins or start < 0 or records[76:80] != b"PK\5\6":
        return None
    if records[56:60] == b"PK\6\7":
        is_right = records[:4] == b"PK\6\6" and _number(records[64:72]) == start
        end, length, offset = start, _number(records[40:48]), _number(records[48:56])
    else:
        is_right = True
        end, length, offset = start + 76, _number(records[88:92]), _number(records[92:96])
    return length if is_right and offset + length == end else None


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
