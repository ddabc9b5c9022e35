"""A comparison put before its reader: a page and a file of numbers."""

import csv
import io
import re
from pathlib import Path

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.csv_rows import CSV_COLUMNS, csv_rows
from attention_lab.reports.page import render_page
from attention_lab.tracking.run_directory import write_atomically

#: With what a spreadsheet takes a cell for a formula, the last four as full-width characters.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell(value: object) -> object:
    """A value as a cell of a CSV file: text that a spreadsheet would compute begins with a '.

    >>> cell("=1+1"), cell(-0.5), cell("-0.5")
    ("'=1+1", -0.5, '-0.5')
    """
    if not (isinstance(value, str) and value.startswith(_FORMULA)):
        return value
    is_number = re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", value, re.ASCII)
    return value if is_number else f"'{value}"


def write_report(comparison: Comparison, directory: Path) -> Path:
    """Write ``report.html`` and ``report.csv`` into a directory; the result is the page's path.

    Both are made before either is written, and each replaces an older one in one step.
    """
    numbers = io.StringIO(newline="")
    writer = csv.DictWriter(numbers, CSV_COLUMNS)
    writer.writeheader()
    writer.writerows({key: cell(it) for key, it in row.items()} for row in csv_rows(comparison))
    html = render_page(comparison)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "report.csv", numbers.getvalue())
    page = directory / "report.html"
    write_atomically(page, html)
    return page
