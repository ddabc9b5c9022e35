"""The file of a checkpoint: whole, and to the byte what was written, or not taken.

It is a zip archive, as ``torch.save`` makes it and ``torch.load`` reads it, whose comment holds the
SHA-256 of all of it: of what torch wrote, where the archive ends without a comment.
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
from attention_lab.tracking.record_files import (
    MIB,
    VERSION_KEY,
    UnreadableRecord,
    check_version,
    open_file,
    with_version,
)

_MARK = b"attention-lab sha256 "
#: How a zip archive ends that has no comment: with the comment's length.
_NO_COMMENT = b"\0\0"
_DIGEST_SIZE = 2 * hashlib.sha256().digest_size  # in hexadecimal digits
_CHUNK = 1 << 20
_ANY_SIZE = 1 << 62
#: The last records of an archive: the end of a zip64 directory, its locator, the end itself.
_SIZE_OF_END = 56 + 20 + 22
#: Bytes of the directory of an archive, where each tensor takes about a hundred.
_LARGEST_DIRECTORY = 64 * MIB
#: How pickles name it, those of Python 2 included.
_BYTEARRAY = {"__builtin__ bytearray", "builtins bytearray"}


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
    with replacing(path, backup=before) as file:
        _save(with_version(checkpoint), file)
    _sync(path.parent)


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
        FileNotFoundError: if there is none.
        Damaged: if it is corrupt, has another schema version or is not safe to load: a link out of
            the run, compressed, or with Python objects other than tensors and plain data.
    """
    try:
        with open_file(path, root=path.parent.parent, limit=_ANY_SIZE) as file:
            if (flaw := _flaw(file) or _danger(file)) is not None:
                raise Damaged(f"{path} {flaw}")
            file.seek(0)
            # A checkpoint may come from a stranger: never unpickle code.
            kept = torch.load(file, map_location=map_location, weights_only=True)
        if not isinstance(kept, dict):
            raise Damaged(f"{path} holds no mapping")
        check_version(path, kept)
    except UnreadableRecord as error:
        raise Damaged(str(error)) from None
    except UnpicklingError as error:  # torch's message says how to run the code
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"Python objects ({name[1]})" if name else "Python objects"
        raise Damaged(f"{path} holds {what}, not only tensors and plain data; not loaded") from None
    del kept[VERSION_KEY]
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


def checksum_of(path: Path) -> str:
    """The checksum that a checkpoint holds of itself: its identity. It is not checked here.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        UnreadableRecord: if it is a link out of the run, or not a regular file.
    """
    with open_file(path, root=path.parent.parent, limit=_ANY_SIZE) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _DIGEST_SIZE))
        return file.read().decode("ascii", errors="replace")


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


def _danger(file: BinaryIO) -> str | None:
    """Why an intact archive without code is still unsafe to load, such as its size."""
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
            # torch finds its pickle by a name in any case.
            named = [it for it in members if it.filename.lower().endswith("data.pkl")]
            pickles = [archive.read(it) for it in named]
        # The only type that torch loads whose size is a number in the file. It knows no other
        # opcode that names a type.
        has_bytearray = any(
            code.name == "GLOBAL" and name in _BYTEARRAY
            for each in pickles
            for code, name, _ in pickletools.genops(each)
        )
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError):
        return "is not an archive of torch's"
    return "holds a bytearray, which may be of any size; not loaded" if has_bytearray else None


def _directory_size(file: BinaryIO) -> int | None:
    """Bytes of the archive's directory, from its last records (APPNOTE.TXT 4.3.14 to 4.3.16).

    None if it is not the one archive from the first byte of the file to the last: torch might then
    read other members than ``zipfile``, or no archive at all.
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
