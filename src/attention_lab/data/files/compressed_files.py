"""Data files that are compressed with gzip or Zstandard."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

from attention_lab.data.files.paths import shown

#: The format of a compressed file, and its first bytes, by the ending of its name.
_FORMATS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("Zstandard", b"\x28\xb5\x2f\xfd")}
#: Bytes that are decompressed at once.
_BLOCK = 2**20
#: The greatest ratio of the decompressed size to the size of the file: a bound for malicious files.
#: Text is compressed about 4 times, and very repetitive text about 50 times.
_MAX_RATIO = 200
#: Files may decompress to this size in bytes, whatever the ratio.
_SMALL = 2**24


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed, by the ending of its name."""
    return path.suffix in _FORMATS


def decompressed(path: Path) -> Iterator[bytes]:
    """The content of a ``.gz`` or ``.zst`` file in blocks.

    Raises:
        OSError: if the file cannot be read.
        ValueError: naming the file, if it has another format, is damaged, or decompresses to over
            200 times its size (and over 16 MiB).
    """
    name, start = _FORMATS[path.suffix]
    size = 0
    with path.open("rb") as raw:
        if raw.read(len(start)) != start:
            raise ValueError(f"{shown(path)}: is not a {name} file, although its name says so")
        raw.seek(0)
        with _opened(path, raw) as file:
            while block := _next_block(path, file):
                size += len(block)
                check_size(path, size)
                yield block


def check_size(path: Path, size: int) -> None:
    """Raise ValueError if ``size``, in bytes, is too much for the content of a compressed file."""
    limit = max(_SMALL, _MAX_RATIO * path.stat().st_size)
    if size > limit:
        raise ValueError(
            f"{shown(path)}: decompresses to more than {limit / 2**20:,.0f} MiB, {_MAX_RATIO} "
            "times its size, as malicious files do; if you trust it, decompress it"
        )


def _opened(path: Path, raw: BinaryIO) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(raw))
    return cast(BinaryIO, _zstd(path).open(raw))


def _next_block(path: Path, file: BinaryIO) -> bytes:
    try:
        return file.read(_BLOCK)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = str(error)
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # the class of the module that is installed
            raise
        problem = str(error)
    raise ValueError(f"{shown(path)}: is damaged: {problem.rstrip('.')}; copy or download it again")


def _zstd(path: Path) -> Any:
    """The module ``compression.zstd`` of Python 3.14, or its backport."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(name)
    raise ValueError(
        f"{shown(path)}: .zst files need a package: pip install 'attention-lab[zst]', or "
        "decompress it with unzstd"
    )
