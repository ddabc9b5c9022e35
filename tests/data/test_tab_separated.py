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
        (b"a\tx\n\n", [("a", "x")]),
        (b"a\tx\n \r\n\t\n\n", [("a", "x")]),
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
        (b"\n", ", line 1: expected text TAB label, got 0 tabs"),
        (
            b"\x1f\x8b\x08\x00",
            ": is compressed; let its name end in .gz, or decompress it with gunzip",
        ),
        (b"PK\3\4", ": is a zip archive or a spreadsheet; save it as text"),
        ("a\tx".encode("utf-16"), ": is UTF-16; save it as UTF-8"),
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


@pytest.mark.parametrize("header", [b"text\tlabel", b"Sentence\tLABEL", b"review\tclass"])
def test_a_header_is_reported(tmp_path: Path, header: bytes) -> None:
    path = written(tmp_path, header + b"\na b\tx\nc\ty\n")
    with pytest.warns(UserWarning, match="line 1 looks like a header, but is read as an example"):
        assert len(read_columns(path, COLUMNS)) == 3


def test_a_header_of_other_names_is_reported(tmp_path: Path) -> None:
    """Its label would be a class of one example."""
    path = written(tmp_path, b"sentence\tsentiment\n" + b"a\tx\nc\ty\n" * 3)
    with pytest.warns(UserWarning, match="line 1 looks like a header"):
        assert len(read_columns(path, COLUMNS)) == 7


@pytest.mark.parametrize(
    "content",
    [
        *(b"text\tlabel\nb\tlabel\n", b"text\tlabel\n", b"a\tx\nb\ty\n"),
        *(b"a\tz\n" + b"a\tx\nb\ty\n" * 2, b"b\tx\n" + b"a\tx\nb\ty\n" * 3),
    ],
)
def test_an_example_is_no_header(
    tmp_path: Path, content: bytes, recwarn: pytest.WarningsRecorder
) -> None:
    read_columns(written(tmp_path, content), COLUMNS)
    assert not recwarn.list
