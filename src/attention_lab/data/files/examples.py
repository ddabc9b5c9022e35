"""Examples with several columns, from tab-separated files or tables."""

from collections.abc import Iterator, Sequence

from attention_lab.data.files.hub import HubDataset
from attention_lab.data.files.paths import expanded, is_table, shown
from attention_lab.data.files.tab_separated import read_columns
from attention_lab.data.files.tables import check_columns_apply, table_rows


def check_columns(columns: Sequence[str] | None, expected: Sequence[str]) -> Sequence[str] | None:
    """Return the option ``columns``; raise ValueError unless it is None or has the right number."""
    if columns is not None and len(columns) != len(expected):
        raise ValueError(
            f"columns={list(columns)} must name {len(expected)} columns of the files: "
            f"{', '.join(expected)}"
        )
    return columns


def read_examples(
    path: str,
    expected: Sequence[str],
    columns: Sequence[str] | None,
    hub: HubDataset | None = None,
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The place of each example, such as "own.tsv, line 3", and its columns.

    Args:
        path: a tab-separated file, a table, or a directory of tables; or a split of ``hub``.
        expected: the names of the columns in messages, and in tables unless others are given.
        columns: the names of the columns in tables.
        hub: the dataset of the hub that is read; None for files.

    Raises:
        ValueError: naming the file, and the line or row if only one is wrong.
    """
    full = expanded(path) if hub is None else hub.file(path, columns or expected)
    if not is_table(full):
        check_columns_apply(full, columns, f"lines {' TAB '.join(expected)}")
        for number, fields in enumerate(read_columns(path, expected), start=1):
            yield f"{shown(path)}, line {number}", fields
        return
    names = columns or expected
    try:
        for place, row in table_rows(full, names):
            fields = tuple(field.strip() for field in row)
            if "" in fields:
                raise ValueError(f"{place}: the {names[fields.index('')]} is empty")
            yield place, fields
    except OSError as error:
        raise ValueError(f"{shown(path)}: {str(error.strerror).lower()}") from None
