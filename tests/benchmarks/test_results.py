"""The tables, the CSV file and the chart of the attention benchmark."""

import csv
import io

import pytest
import torch

from attention_lab.benchmarks.attention import FORWARD, Measurement, Results
from attention_lab.benchmarks.ceilings import Ceilings
from attention_lab.benchmarks.implementations import Setting
from attention_lab.benchmarks.results import (
    _milliseconds,
    chart,
    crossings,
    csv_text,
    named,
    tables,
)
from attention_lab.benchmarks.timing import Timing
from attention_lab.printing import rich_console

LENGTHS = [128, 512, 2048]


def results() -> Results:
    """SDPA, whose time is quadratic, and linear attention, whose time is linear."""
    setting = Setting(1, 4, 32, LENGTHS, "cpu", torch.float32)
    rows = []
    for name, power, cost in (("torch SDPA", 2, 1e-9), ("linear eager", 1, 1e-6)):
        for length in LENGTHS:
            seconds = cost * length**power
            timing = Timing(seconds, 0.9 * seconds, 1.1 * seconds)
            rows.append(Measurement(name, FORWARD, length, False, timing, 4_000_000, 0.25))
    return Results(setting, Ceilings(1e11, 1e10, 1e9), rows, [])


def test_the_csv_file_has_a_row_for_each_measurement() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(results()))))
    assert len(rows) == 6
    row = rows[-1]
    assert (row["implementation"], row["pass"], row["length"]) == ("linear eager", FORWARD, "2048")
    assert float(row["seconds"]) == pytest.approx(2048e-6)
    assert float(row["seconds_low"]) < float(row["seconds"]) < float(row["seconds_high"])
    assert float(row["ratio_to_sdpa"]) == pytest.approx(1000 / 2048)
    assert float(row["exponent"]) == pytest.approx(1)
    assert (row["peak_bytes"], row["share_of_ceiling"], row["dtype"]) == (
        "4000000",
        "0.25",
        "float32",
    )


@pytest.mark.parametrize("width", [80, 200])
def test_a_table_fits_the_terminal(width: int) -> None:
    (table,) = tables(results(), width)
    console = rich_console(width=width)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    fastest = next(line for line in lines if "eager" in line or "SDPA" in line.split("×")[0])
    assert fastest.startswith("linear eager")
    assert {"2.05", "[1.84,", "2.25]", "0.49", "4.0", "25%", "1.0"} <= set(fastest.split())


def test_the_crossing_of_linear_attention_and_sdpa() -> None:
    lines = list(crossings(results()))
    assert lines == ["linear eager and torch SDPA, forward: faster from length 1,000"]


def test_the_chart_names_lines_that_differ() -> None:
    made = results()
    close = [it._replace(name="close") for it in made.measurements if it.name == "linear eager"]
    made.measurements += close
    axes, *_ = chart(made).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == named(made, FORWARD)
    assert named(made, FORWARD) == ["torch SDPA", "linear eager"]
    assert len(axes.get_lines()) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-5, "0.012"), (1.234e-3, "1.23"), (0.1234, "123"), (1.234, "1,234"), (None, "–")],
)
def test_times_have_three_digits(seconds: float | None, text: str) -> None:
    assert _milliseconds(seconds) == text
