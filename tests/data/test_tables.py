"""Tables of the user: CSV, JSON Lines, Parquet and Arrow files, and directories of them."""

import csv
import gzip
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attention_lab.data.files.examples import read_examples
from attention_lab.data.files.file_hashes import sha256
from attention_lab.data.files.labels import Labels
from attention_lab.data.files.pairs import Pairs
from tests.data.poem import MARKS, POEM, SPLITS, loaded, read

pytestmark = MARKS
COLUMNS = ("text", "label")
ENDINGS = ("csv", "csv.gz", "jsonl", "jsonl.gz", "parquet", "arrow", "stream.arrow")
ROWS = [{"id": 1, "text": 'a "b",\nc', "label": 1}, {"id": 2, "text": " é ", "label": 0}]


def table(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write a table in the format of the file's name; skips the test without pyarrow."""
    if path.suffix == ".gz":
        plain = Path(table(path.with_suffix(""), rows))
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        arrow = pytest.importorskip("pyarrow", reason="needs attention-lab[arrow]")
        import pyarrow.parquet

        made = arrow.Table.from_pylist(rows)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(made, path)
        else:
            new = arrow.ipc.new_stream if ".stream" in path.name else arrow.ipc.new_file
            with new(path, made.schema) as writer:
                writer.write_table(made)
    return str(path)


def examples(path: str, columns: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    return [fields for _, fields in read_examples(path, COLUMNS, columns)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_each_row_is_an_example(tmp_path: Path, ending: str) -> None:
    path = table(tmp_path / f"own.{ending}", ROWS)
    assert examples(path) == [('a "b",\nc', "1"), ("é", "0")]
    assert examples(path, ["id", "text"]) == [("1", 'a "b",\nc'), ("2", "é")]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_missing_column_lists_those_that_exist(tmp_path: Path, ending: str) -> None:
    path = table(tmp_path / f"own.{ending}", ROWS)
    message = r"has no column 'stars'; choose from id, text, label with data\.columns=\[…\]$"
    with pytest.raises(ValueError, match=f"^{re.escape(path)}(, line 1)?: {message}"):
        examples(path, ["text", "stars"])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_directory_is_one_table(tmp_path: Path, ending: str) -> None:
    (tmp_path / "README.md").write_text("not a table")
    with pytest.raises(ValueError, match=r"is a directory without files \.csv, \.jsonl"):
        examples(str(tmp_path))
    table(tmp_path / f"b.{ending}", ROWS[1:])
    table(tmp_path / f"a.{ending}", ROWS[:1])
    assert examples(str(tmp_path)) == [('a "b",\nc', "1"), ("é", "0")]
    before = sha256(tmp_path)
    (tmp_path / "README.md").write_text("still not a table")
    assert sha256(tmp_path) == before
    table(tmp_path / f"b.{ending}", ROWS)
    assert sha256(tmp_path) != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", ": is empty"),
        ("a.csv", b"text,label\n", ": has no rows"),
        ("a.csv", b"text,label\na\n", ", line 2: has 1 fields, but the header has 2"),
        ("a.csv", b'text,label\n"a,x\n', ", line 2: unexpected end of data"),
        ("a.csv", b"text,label\na,\n", ", line 2: the label is empty"),
        ("a.csv", b"text,label\n\xff,x\n", ", line 2: byte 1 (0xff) is not UTF-8"),
        ("a.csv", b"text,text,label\na,b,x\n", ": has several columns 'text'; choose from text, "),
        ("a.jsonl", b"{}\n[\n", ", line 1: has no column 'text'; choose from  with"),
        ("a.jsonl", b"\n{\n", ", line 2: is not JSON: Expecting property name"),
        ("a.jsonl", b"[" * 200000, ", line 1: is not JSON: "),
        ("a.jsonl", b"[1]\n", ", line 1: is not a JSON object"),
        ("a.jsonl", b'{"text": ["a"], "label": 1}', ", line 1: the column text is not text, but"),
        ("a.jsonl", b'{"text": null, "label": 1}', ", line 1: the text is empty"),
        ("a.jsonl", b'{"text": "\\ud800", "label": 1}', ", line 1: the column text has half of"),
    ],
)
def test_a_bad_table_is_named_with_its_bad_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / name) + message)}[^\n]*$"):
        examples(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.stream.arrow"])
def test_a_damaged_binary_table_is_one_line(tmp_path: Path, name: str) -> None:
    path = Path(table(tmp_path / name, ROWS))
    content = path.read_bytes()
    for harmed in (content[: len(content) // 2], b"PAR1", b"ARROW1\0\0", b""):
        path.write_bytes(harmed)
        with pytest.raises(ValueError, match=r"a[.\w]*: is damaged, or not [^\n]*$"):
            examples(str(path))


def test_columns_are_for_tables(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("a\tx\n")
    with pytest.raises(ValueError, match=r"own\.tsv: has no named columns, so data\.columns does"):
        examples(str(path), ["text", "label"])
    with pytest.raises(ValueError, match=r"own\.tsv: has no named columns"):
        loaded(str(path), columns=["text"])
    with pytest.raises(ValueError, match=r"must name 2 columns of the files: source, target"):
        Pairs("own.csv", columns=["en"])
    with pytest.raises(ValueError, match=r"missing\.csv: no such file or directory$"):
        examples(str(tmp_path / "missing.csv"))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'attention-lab\[arrow\]'"):
        examples(str(tmp_path / "own.parquet"))


def test_pairs_and_labels_of_a_table_are_those_of_the_lines(tmp_path: Path) -> None:
    rows = [{"de": f"{n} mal", "en": f"{n % 3} times"} for n in range(200)]
    lines = tmp_path / "own.tsv"
    lines.write_text("".join(f"{row['de']}\t{row['en']}\n" for row in rows))
    path = table(tmp_path / "own.csv", rows)
    for kind in (Pairs, Labels):
        made, plain = kind(path, columns=["de", "en"]), kind(str(lines))
        made.setup()
        plain.setup()
        for split in SPLITS:
            for one, other in zip(made.split(split), plain.split(split), strict=True):
                assert one.equal(other)


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl", "arrow"])
def test_each_row_of_a_table_is_a_line_of_text(tmp_path: Path, ending: str) -> None:
    lines = POEM.replace("\r", "").splitlines()
    path = table(tmp_path / f"own.{ending}", [{"line": line, "n": 1} for line in lines])
    (tmp_path / "own.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())
    made, plain = loaded(path, columns=["line"]), loaded(str(tmp_path / "own.txt"))
    assert [read(made, split) for split in SPLITS] == [read(plain, split) for split in SPLITS]
    with pytest.raises(ValueError, match="has no column 'n2'; choose from line, n"):
        loaded(path, columns=["n2"])
