"""A comparison put before its reader: a page and a file of numbers."""

import csv
import io
from pathlib import Path

from attention_lab.recording.run_directory import write_atomically
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.numbers import CSV_COLUMNS, csv_rows
from attention_lab.reports.page import render_page


def write_report(comparison: Comparison, directory: Path) -> Path:
    """Write ``report.html`` and ``report.csv`` into a directory; the result is the page's path.

    Both are made before either is written, and each replaces an older one in one step.
    """
    numbers = io.StringIO(newline="")
    writer = csv.DictWriter(numbers, CSV_COLUMNS)
    writer.writeheader()
    writer.writerows(csv_rows(comparison))
    html = render_page(comparison)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "report.csv", numbers.getvalue())
    page = directory / "report.html"
    write_atomically(page, html)
    return page
