"""Compressed files of the user: pairs, labels and text."""

import gzip
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from attention_lab.data.files import compressed_files
from attention_lab.data.files.cache import cache_directory
from attention_lab.data.files.file_hashes import sha256
from attention_lab.data.files.tab_separated import read_columns
from tests.data.poem import MARKS, POEM, SPLITS, loaded, read, written

pytestmark = MARKS
COLUMNS = ("text", "label")
LINES = b"a b\tx\nc\ty\n"


def compressed(path: Path, content: bytes) -> Path:
    """A gzip or Zstandard file; skips the test without a package for the latter."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    else:
        zstd = pytest.importorskip("backports.zstd", reason=".zst needs attention-lab[zst]")
        path.write_bytes(zstd.compress(content))
    return path


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_compressed_file_has_the_examples_of_the_plain_one(tmp_path: Path, ending: str) -> None:
    path = compressed(tmp_path / f"own.tsv.{ending}", LINES)
    assert read_columns(path, COLUMNS) == [("a b", "x"), ("c", "y")]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_compressed_text_is_that_of_the_plain_one(tmp_path: Path, ending: str) -> None:
    path = compressed(tmp_path / f"own.txt.{ending}", POEM.encode())
    plain = loaded(written(tmp_path, POEM))
    for _ in range(2):  # decompressed, then from the cache
        assert [read(loaded(str(path)), split) for split in SPLITS] == [
            read(plain, split) for split in SPLITS
        ]
    (made,) = (cache_directory() / "texts").iterdir()
    assert made.name == f"{sha256(path)}.{ending}.txt"


def test_token_ids_stay_valid_if_a_text_is_decompressed_again(tmp_path: Path) -> None:
    path = compressed(tmp_path / "own.txt.gz", POEM.encode())
    loaded(str(path))
    before = sorted(cache_directory().iterdir())
    (made,) = (cache_directory() / "texts").iterdir()
    made.unlink()
    loaded(str(path))
    assert made.exists()
    assert sorted(cache_directory().iterdir()) == before


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda content: content[:-6], "is damaged: .*; copy or download it again"),
        (lambda content: content[:6] + b"\xff" * 6 + content[12:], "is damaged: .*; copy or"),
        (lambda content: b"a\tx\n", "is not a (gzip|Zstandard) file, although its name says so"),
        (lambda content: b"", "is not a (gzip|Zstandard) file, although its name says so"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, ending: str, harm: Any, message: str) -> None:
    path = compressed(tmp_path / f"own.{ending}", os.urandom(100))
    path.write_bytes(harm(path.read_bytes()))
    expected = f"^{re.escape(str(path))}: {message}[^\n]*$"
    with pytest.raises(ValueError, match=expected):
        read_columns(path, COLUMNS)
    with pytest.raises(ValueError, match=expected):
        loaded(str(path))
    assert not list(cache_directory().rglob("*.txt"))


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_file_that_grows_too_much_is_refused(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed_files, "_SMALL", 2**20)
    path = compressed(tmp_path / f"own.{ending}", bytes(3 * 2**20))
    with pytest.raises(ValueError, match=r"decompresses to more than 1 MiB.*if you trust it"):
        read_columns(path, COLUMNS)
    with pytest.raises(ValueError, match=r"decompresses to more than 1 MiB.*if you trust it"):
        loaded(str(path))
    assert not list((cache_directory() / "texts").iterdir())


def test_a_text_that_is_not_utf8_is_named_by_the_users_file(tmp_path: Path) -> None:
    path = compressed(tmp_path / "own.txt.gz", b"good\n" * 50 + b"b\xffd")
    message = re.escape(f"{path}, line 51: byte 252 of the decompressed file (0xff) is not UTF-8")
    with pytest.raises(ValueError, match=f"^{message}$"):
        loaded(str(path))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.tsv.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install 'attention-lab\[zst\]'"):
        read_columns(path, COLUMNS)
