"""Tab-separated files of the user: reading, and messages about bad lines."""

import re
from pathlib import Path

import pytest

from attention_lab.data.files.tab_separated import read_columns

COLUMNS = ("text", "label")


def written(directory: Path, content: bytes) -> Path:
    path = directory / "own.tsv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a b\tx\nc\ty\n", [("a b", "x"), ("c", "y")]),
        (b"a b\tx\nc\ty", [("a b", "x"), ("c", "y")]),
        (b" a b \tx\r\nc\t y\r\n", [("a b", "x"), ("c", "y")]),
        (b"\xef\xbb\xbfa\tx\n", [("a", "x")]),
        # Other characters at which str.splitlines would end a line stay in it.
        ("é\x0bü\u2028ß\t日本\n".encode(), [("é\x0bü\u2028ß", "日本")]),
    ],
)
def test_each_line_is_a_tuple(
    tmp_path: Path, content: bytes, expected: list[tuple[str, ...]]
) -> None:
    assert read_columns(written(tmp_path, content), COLUMNS) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": is empty; a file of lines text TAB label is needed"),
        (b"a\tx\nb\n", ", line 2: expected text TAB label, got 0 tabs"),
        (b"a\tx\n\nb\ty\n", ", line 2: expected text TAB label, got 0 tabs"),
        (b"a\tx\ty\n", ", line 1: expected text TAB label, got 2 tabs"),
        (b"a\tx\n \ty\n", ", line 2: the text is empty"),
        (b"a\tx\nb\t\r\n", ", line 2: the label is empty"),
        (b"a\tx\nb\xff\ty\n", ", line 2: byte 2 (0xff) is not UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_its_bad_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path) + message)}$"):
        read_columns(path, COLUMNS)


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "none.tsv"
    with pytest.raises(ValueError, match=r"none\.tsv: no such file or directory; a file of lines"):
        read_columns(missing, COLUMNS)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}: is a directory"):
        read_columns(str(tmp_path), COLUMNS)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the superuser may read anything
    with pytest.raises(ValueError, match=r"none\.tsv: permission denied"):
        read_columns(missing, COLUMNS)
