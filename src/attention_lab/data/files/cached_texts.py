"""The text of compressed files and of tables, as plain files in the cache."""

import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

from attention_lab.atomic_write import replacing
from attention_lab.data.files.cache import cache_directory
from attention_lab.data.files.compressed_files import decompressed, is_compressed
from attention_lab.data.files.file_hashes import sha256
from attention_lab.data.files.paths import is_table, shown
from attention_lab.data.files.tables import check_columns_apply, files_of_table, table_rows


def plain_text(path: Path, columns: Sequence[str] | None) -> Path:
    """A file that has the text of a data file: itself, or a file in the cache.

    The content of a compressed file is decompressed. A table's text is that of one column, a line
    for each row.

    Args:
        path: a text file, a table, or a directory of tables.
        columns: the one column of a table; None for "text".

    Raises:
        OSError: if the file cannot be read.
        ValueError: naming the file, if it is damaged, has no such column, or decompresses to too
            much; or if the cache cannot be written.
    """
    if is_table(path):
        files_of_table(path)  # before its hash, which does not say that there are none
        column = (columns or ["text"])[0]
        name = blake2b(column.encode(), digest_size=8).hexdigest()
        rows = (f"{text}\n".encode() for _, (text,) in table_rows(path, [column]))
        return _cached(path, f"column-{name}", rows)
    check_columns_apply(path, columns, "text")
    if is_compressed(path):
        return _cached(path, path.suffix[1:], decompressed(path))
    return path


def _cached(path: Path, name: str, blocks: Iterable[bytes]) -> Path:
    """A file in the cache with the content of ``blocks``, named after the hash of ``path``."""
    digest = sha256(path)
    made = cache_directory() / "texts" / f"{digest}.{name}.txt"
    if made.exists():
        return made
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        with replacing(made) as file:
            for block in blocks:
                file.write(block)
            if sha256(path) != digest:
                raise ValueError(f"{shown(path)}: changed while it was read; run the command again")
            file.flush()
            # The cached token ids are valid for this time: a second file must not have a new one.
            os.utime(file.fileno(), (0, 0))
    except OSError as error:
        raise ValueError(
            f"{shown(path)}: cannot write its text into {made.parent}: {error}; set XDG_CACHE_HOME "
            "to another directory"
        ) from None
    return made
