"""SHA-256 hashes of data files, cached for large files."""

import functools
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from hashlib import blake2b, file_digest
from pathlib import Path

from attention_lab.data.files.cache import cache_directory
from attention_lab.data.files.paths import table_files

#: Size in bytes from which a file's hash is cached.
LARGE = 2**24


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex.

    That of a directory is the SHA-256 of the names and hashes of its tables. The hash of a large
    file is cached; it is valid while path, size and times are unchanged.

    Raises:
        OSError: if it cannot be read, or is neither a regular file nor a directory with tables.
    """
    about = path.stat()
    if stat.S_ISDIR(about.st_mode) and (tables := table_files(path)):
        listing = "".join(f"{sha256(table)}  {table.name}\n" for table in tables)
        return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
    if not stat.S_ISREG(about.st_mode):
        raise OSError(f"{path} is not a regular file")
    # ctime also detects a change after which mtime was set to its earlier value.
    return _sha256(path, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@functools.lru_cache
def _sha256(path: Path, size: int, *times: int) -> str:
    if size < LARGE:
        return _digest(path)
    key = blake2b(f"{path} {size} {times}".encode(errors="surrogateescape"), digest_size=16)
    kept = cache_directory() / "sha256" / key.hexdigest()
    with suppress(OSError, ValueError):
        known = kept.read_text(encoding="ascii")
        if len(bytes.fromhex(known)) == 32:
            return known
    digest, now = _digest(path), path.stat()
    if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == (size, *times):
        with suppress(OSError):  # without a writable cache the file is read each time
            _keep(kept, digest)
    return digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _keep(path: Path, digest: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(digest)
    Path(partial).replace(path)
