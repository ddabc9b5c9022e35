"""The report's files: ``report.html`` and ``report.csv``."""

from pathlib import Path

from attention_lab.atomic_write import write_atomically
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.csv_table import csv_text
from attention_lab.reports.page import render_page


def write_report(comparison: Comparison, directory: Path) -> Path:
    """Write ``report.html`` and ``report.csv`` into a directory; returns the page's path.

    Both are rendered before either is written, and each replaces an older one atomically.
    """
    numbers, html = csv_text(comparison), render_page(comparison, directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "report.csv", numbers)
    page = directory / "report.html"
    write_atomically(page, html)
    return page
