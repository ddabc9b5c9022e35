"""The headline, the table and the CSV: groups are called better only if a test is significant."""

import csv
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from attention_lab.quantities import format_duration, format_quantity
from attention_lab.reports.charts.intervals import interval_chart
from attention_lab.reports.comparison import Comparison, compare
from attention_lab.reports.csv_table import csv_rows
from attention_lab.reports.formatting import (
    format_effect_size,
    format_interval,
    format_p_value,
    format_value,
    format_with_unit,
)
from attention_lab.reports.headline import headline, seeds_caveat
from attention_lab.reports.page import render_page
from attention_lab.reports.report import write_report
from attention_lab.reports.runs import read_runs
from attention_lab.reports.stats import mean_interval
from attention_lab.reports.terminal_table import terminal_table
from tests.reports.conftest import Compared, WriteRun

CLEAR = [0.100, 0.101, 0.103, 0.102]
WORSE = [0.202, 0.200, 0.203, 0.204]
ALIKE = [0.101, 0.100, 0.105, 0.101]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            {"a": WORSE, "b": CLEAR},
            "b has the lowest PER, 10.2 % [9.9, 10.4] (trivial baseline 70.0 %), lower than a on "
            "the same seeds (adjusted p < 0.001).",
        ),
        (
            {"a": CLEAR, "b": WORSE, "c": [0.30, 0.302, 0.301, 0.303]},
            "a has the lowest PER, 10.2 % [9.9, 10.4] (trivial baseline 70.0 %), lower than every "
            "other group on the same seeds (adjusted p < 0.001).",
        ),
        (
            {"a": CLEAR, "b": ALIKE},
            "4 seeds do not distinguish the groups: PER is from 10.2 % for a to 10.2 % for b "
            "(trivial baseline 70.0 %).",
        ),
        (
            {"a": CLEAR, "b": WORSE, "c": ALIKE},
            "4 seeds do not distinguish a and c: a has the lowest PER, 10.2 % [9.9, 10.4] "
            "(trivial baseline 70.0 %), lower than b on the same seeds (adjusted p < 0.001).",
        ),
        (
            # c is not distinguished from a, and yet b is better than c.
            {"a": CLEAR, "b": WORSE, "c": [0.45, None, None, None]},
            "4 seeds do not distinguish a and c: a has the lowest PER, 10.2 % [9.9, 10.4] "
            "(trivial baseline 70.0 %), lower than b on the same seeds (adjusted p < 0.001).",
        ),
        (
            {"a": [0.1, 0.2, 0.15], **{label: [0.2, 0.1, 0.16] for label in "bcde"}},
            "3 seeds do not distinguish the groups: PER is from 15.0 % for a to 15.3 % for e "
            "(trivial baseline 70.0 %).",
        ),
        (
            {"a": [0.1, 0.101], "b": [0.2, 0.201]},
            "Two seeds do not distinguish the groups: PER is from 10.1 % for a to 20.1 % for b "
            "(trivial baseline 70.0 %).",
        ),
        (
            {"a": [0.1], "b": [0.2]},
            "One seed does not distinguish the groups: PER is from 10.0 % for a to 20.0 % for b "
            "(trivial baseline 70.0 %).",
        ),
        (
            # Many seeds of one group say nothing about the single seed of the other.
            {"a": CLEAR, "b": [0.9 / 2, None, None, None]},
            "4 seeds do not distinguish the groups: PER is from 10.2 % for a to 45.0 % for b "
            "(trivial baseline 70.0 %).",
        ),
        ({"a": CLEAR, "b": CLEAR}, "a and b have the same PER, 10.2 % (trivial baseline 70.0 %)."),
        (
            {label: [0.0, 0.0, 0.0] for label in "abcd"},
            "4 groups have the same PER, 0.0 % (trivial baseline 70.0 %).",
        ),
        (
            {"a": [0.1, 0.2, 0.15], "b": [None]},
            "The PER of a is 15.0 % [2.6, 34.3] (trivial baseline 70.0 %); no other group has a "
            "result.",
        ),
        (
            {"a": [0.1, 0.2], "b": [None]},
            "The PER of a is 15.0 % (10.0, 20.0) (trivial baseline 70.0 %); no other group has a "
            "result.",
        ),
        (
            {"a": [0.8]},
            "No group beats the trivial baseline, 70.0 % PER. The PER of a is 80.0 % (one seed); "
            "no other group has a result.",
        ),
        ({"a": [None]}, "No run has finished with a test metric, so there is nothing to compare."),
    ],
)  # fmt: skip
def test_the_headline_claims_no_more_than_the_seeds_support(
    compared: Compared, scores: dict[str, list[float | None]], sentence: str
) -> None:
    assert headline(compared(scores)) == sentence


def trivial_and_shortcuts(
    trivial: dict[str, float], **shortcuts: dict[str, float]
) -> dict[str, object]:
    """The baselines of a comparison, as its fields."""
    return {"trivial_baseline": trivial, "shortcut_baselines": shortcuts}


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (
            trivial_and_shortcuts({"per": 0.7}, **{"first letter": {"per": 0.4}}),
            "a has the lowest PER, 10.2 % [9.9, 10.4] (trivial baseline 70.0 %, shortcut baseline "
            "first letter 40.0 %), lower than b on the same seeds (adjusted p < 0.001).",
        ),
        (
            trivial_and_shortcuts({"per": 0.7}, **{"first letter": {"per": 0.05}}),
            "No group beats the shortcut baseline first letter, 5.0 % PER. a has the lowest PER, "
            "10.2 % [9.9, 10.4] (trivial baseline 70.0 %), lower than b on the same seeds "
            "(adjusted p < 0.001).",
        ),
        (
            {"trivial_baseline": {"per": 0.103}},
            "a has the lowest PER, 10.2 % [9.9, 10.4] (trivial baseline 10.3 %, within the "
            "interval), lower than b on the same seeds (adjusted p < 0.001).",
        ),
        (
            trivial_and_shortcuts({}, x={"per": 0.9}, y={"per": 0.8}, z={"wer": 0.1}),
            "a has the lowest PER, 10.2 % [9.9, 10.4] (shortcut baseline y 80.0 %), lower than b "
            "on the same seeds (adjusted p < 0.001).",
        ),
        (
            trivial_and_shortcuts({"per": 0.7}, worse={"per": 0.8}),
            "a has the lowest PER, 10.2 % [9.9, 10.4] (trivial baseline 70.0 %), lower than b on "
            "the same seeds (adjusted p < 0.001).",
        ),
    ],
)  # fmt: skip
def test_the_headline_gives_the_values_of_baselines(
    compared: Compared, known: dict[str, dict[str, object]], sentence: str
) -> None:
    comparison = compared({"a": CLEAR, "b": WORSE}, **known)
    assert headline(comparison) == sentence
    is_beaten = "No group beats" in sentence or "within" in sentence
    assert (comparison.winner is None) == is_beaten


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            {"base": WORSE, "a": CLEAR},
            "a has the lowest PER, 10.2 % [9.9, 10.4] (trivial baseline 70.0 %); the difference of "
            "a to the baseline base is −10.1 points [−10.3, −9.8] on 4 shared seeds "
            "(adjusted p < 0.001).",
        ),
        (
            {"base": ALIKE, "a": CLEAR},
            "4 seeds do not distinguish the groups: PER is from 10.2 % for a to 10.2 % for base "
            "(trivial baseline 70.0 %); the difference of a to the baseline base is 0.0 points "
            "[−0.3, 0.2] on 4 shared seeds (adjusted p = 0.76: it may be chance).",
        ),
        (
            {"base": WORSE, "a": CLEAR, "c": ALIKE},
            "4 seeds do not distinguish a and c: a has the lowest PER, 10.2 % [9.9, 10.4] "
            "(trivial baseline 70.0 %); the difference of a to the baseline base is "
            "−10.1 points [−10.4, −9.8] on 4 shared seeds (adjusted p < 0.001).",
        ),
        (
            {"base": [0.2, 0.21, None, None], "a": CLEAR},
            "4 seeds do not distinguish the groups: PER is from 10.2 % for a to 20.5 % for base "
            "(trivial baseline 70.0 %); a shares too few seeds with the baseline base for a test.",
        ),
        (
            {"base": [0.2] * 3, "a": [0.1] * 3},
            "3 seeds do not distinguish the groups: PER is from 10.0 % for a to 20.0 % for base "
            "(trivial baseline 70.0 %); the difference of a to the baseline base is −10.0 points "
            "on each of 3 shared seeds: without spread there is no test.",
        ),
        (
            {"base": [None], "a": CLEAR, "b": WORSE},
            "a has the lowest PER, 10.2 % [9.9, 10.4] (trivial baseline 70.0 %), lower than b on "
            "the same seeds (adjusted p < 0.001); the baseline base has no result.",
        ),
        (
            {"base": CLEAR, "a": WORSE},
            "base has the lowest PER, 10.2 % [9.9, 10.4] (trivial baseline 70.0 %), lower than a "
            "on the same seeds (adjusted p < 0.001).",
        ),
    ],
)  # fmt: skip
def test_the_headline_with_a_baseline_group(
    compared: Compared, scores: dict[str, list[float | None]], sentence: str
) -> None:
    assert headline(compared(scores, "attention=base")) == sentence


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ({"a": WORSE, "b": CLEAR}, "b"),
        ({"a": CLEAR, "b": ALIKE}, None),
        ({"a": [0.0] * 3, "b": [0.0] * 3}, None),
        ({"a": [0.1], "b": [0.2]}, None),
        ({"a": CLEAR, "b": [None]}, None),
        # The trivial baseline is 0.7.
        ({"a": [0.9, 0.901, 0.903], "b": [0.95, 0.951, 0.952]}, None),
    ],
)
def test_only_a_winner_is_bold(
    compared: Compared, scores: dict[str, list[float | None]], winner: str | None
) -> None:
    comparison = compared(scores)
    console = Console(width=100, color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(terminal_table(comparison, 100))
    rows = [line for line in capture.get().splitlines() if "1.23 M" in line]
    assert [line[4] for line in rows if line.startswith("\x1b[1m")] == ([winner] if winner else [])
    page = render_page(comparison)
    bold = re.findall(
        r'<tr class="best">\s*<td class="text label">.*</span>\s*(\w+)\s*<small', page
    )
    assert bold == ([winner] if winner else [])


def test_a_long_name_of_a_baseline_does_not_widen_the_table(compared: Compared) -> None:
    comparison = compared({"a": CLEAR, "b": ALIKE})

    def with_shortcuts(known: dict[str, dict[str, float]]) -> Comparison:
        return replace(comparison, baselines=replace(comparison.baselines, shortcuts=known))

    widths = {
        max(len(line) for line in printed(with_shortcuts(known), 200) if "─" in line)
        for known in ({"x": {"per": 0.4}}, {"the same phoneme for each letter": {"per": 0.4}})
    }
    assert len(widths) == 1


def test_no_group_is_called_better_on_other_data(write_run: WriteRun) -> None:
    for label, values in {"a": WORSE, "b": CLEAR}.items():
        for seed, value in enumerate(values):
            config = {"data": {"limit": label, "seed": seed}}
            run = write_run(f"a={label}", seed, test={"per": value}, config=config)
    comparison = compare(read_runs([run.parent]))
    assert headline(comparison) == (
        "The runs have different data, so none is called better than another; the lowest PER is "
        "that of b, 10.2 % [9.9, 10.4]."
    )
    assert "Quality against cost" not in render_page(comparison)


def test_the_headline_if_higher_is_better(write_run: WriteRun) -> None:
    result = {"monitor": "accuracy", "mode": "max", "trivial_baseline": {"accuracy": 0.1}}
    for seed, (low, high) in enumerate(zip(CLEAR, WORSE, strict=True)):
        write_run("a=low", seed, test={"accuracy": low + 0.5}, result=result)
        run = write_run("a=high", seed, test={"accuracy": high + 0.5}, result=result)
    comparison = compare(read_runs([run.parent]))
    assert headline(comparison) == (
        "high has the highest accuracy, 70.2 % [70.0, 70.5] (trivial baseline 10.0 %), higher than "
        "low on the same seeds (adjusted p < 0.001)."
    )
    assert "accuracy, % (higher is better)" in interval_chart(comparison)


@pytest.mark.parametrize(
    ("scores", "beginning"),
    [
        ({"a": [0.1, 0.2, 0.3], "b": [0.1]}, "With 3 seeds no test gives a p below 0.25 unless"),
        ({"a": [0.1], "b": [0.1]}, "One seed has no interval and no test"),
        ({"a": [0.1, 0.2], "b": [0.1]}, "Two seeds have no interval and no test"),
        ({"a": [0.1, 0.2, 0.3], "b": [None]}, ""),
    ],
)
def test_the_caveat_about_few_seeds(
    compared: Compared, scores: dict[str, list[float | None]], beginning: str
) -> None:
    comparison = compared(scores)
    assert seeds_caveat(comparison).startswith(beginning)
    assert bool(seeds_caveat(comparison)) == bool(beginning)
    assert seeds_caveat(comparison) in " ".join(printed(comparison, 400))
    assert seeds_caveat(comparison) in render_page(comparison)


def test_numbers_are_formatted_for_readers() -> None:
    assert (
        format_value("per", 0.1234),
        format_value("loss", -0.12345),
        format_value("wer", None),
    ) == (
        "12.3",
        "−0.123",
        "–",
    )
    assert format_value("per", -0.0001) == "0.0"
    assert (format_with_unit("token_accuracy", 0.5), format_with_unit("loss", 0.5)) == (
        "50.0 %",
        "0.500",
    )
    assert format_interval("per", mean_interval([0.1])) == "(one seed)"
    assert format_interval("per", mean_interval([0.1, 0.35])) == "(10.0, 35.0)"
    assert format_interval("loss", mean_interval([0.1] * 3)) == "(all equal)"
    assert (
        format_p_value(0.0004),
        format_p_value(0.0123),
        format_p_value(0.04, "≤"),
        format_p_value(math.nan),
    ) == (
        "p < 0.001",
        "p = 0.012",
        "p ≤ 0.04",
        "no p",
    )
    assert [format_quantity(x) for x in (950, 15_000, 123_456, 1_234_567, math.inf, None)] == [
        "950",
        "15.0 k",
        "123 k",
        "1.23 M",
        "never",
        "–",
    ]
    assert format_quantity(612e6, "B") == "612 MB"
    assert [format_effect_size(g) for g in (-1.25, 0.34, -0.001, math.nan)] == [
        "g = −1.2",
        "g = 0.3",
        "g = 0.0",
        "no g",
    ]
    assert [format_duration(x) for x in (45, 204, 4320, None)] == ["45 s", "3.4 min", "1.2 h", "–"]


def printed(comparison: Comparison, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal_table(comparison, width))
    return capture.get().splitlines()


def test_shortcut_baselines_are_listed_after_the_trivial_baseline(compared: Compared) -> None:
    known = {"first letter": {"per": 0.25}, "nothing known": {}}
    comparison = compared(
        {"a": [0.1, 0.2]}, trivial_baseline={"per": 0.3}, shortcut_baselines=known
    )
    lines = printed(comparison, 100)
    values = [line.split()[-1] for line in lines if line.startswith("first letter ")]
    assert values == ["25.0"]
    assert [line for line in lines if line.strip() == "(shortcut)"]  # wrapped
    assert not [line for line in lines if "nothing known" in line]
    drawn = re.findall(r">([^<]+)<", interval_chart(comparison))
    assert {"first letter (shortcut) 25.0 %", "trivial baseline 30.0 %"} <= set(drawn)
    assert "first letter (shortcut)" in render_page(comparison)


def test_metrics_on_slices_are_in_the_csv_but_no_columns(write_run: WriteRun) -> None:
    test = {"accuracy": 0.5, "accuracy/length=1-9": 0.75}
    run = write_run("attention=a", 0, test=test, result={"monitor": "accuracy", "mode": "max"})
    comparison = compare(read_runs([run.parent]))
    assert comparison.metrics == ["accuracy"]
    assert "length" not in " ".join(printed(comparison, 200))
    rows = {row["metric"]: row["mean"] for row in csv_rows(comparison)}
    assert rows == test
    assert format_with_unit("accuracy/length=1-9", 0.75) == "75.0 %"


@pytest.mark.parametrize("baseline", [None, "scaled"])
@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_table_fits(sweep: Path, width: int, baseline: str | None) -> None:
    lines = printed(compare(read_runs([sweep]), baseline), width)
    assert max(map(len, lines)) <= width
    (scaled,) = [line for line in lines if line.startswith("scaled ")]
    assert re.search(r"scaled +3 +21\.0 \[18\.5, 23\.6\] .* 1\.23 M +10\.1 k", scaled)
    (general,) = [line for line in lines if line.startswith("general ") and "n" in line]
    assert re.search(r"general +1/4 +15\.0 \(one seed\)", general)
    (trivial,) = [line for line in lines if line.startswith("trivial baseline ")]
    assert "70.0" in trivial
    (heading,) = [line for line in lines if line.startswith("attention ")]
    assert ("Δ PER, points" in heading) == (baseline is not None)


def test_a_wider_terminal_shows_more_metrics(sweep: Path) -> None:
    comparison = compare(read_runs([sweep]), "scaled")
    shown_at = {}
    for width in (70, 100, 160):
        lines = printed(comparison, width)
        (heading,) = [line for line in lines if line.startswith("attention ")]
        shown_at[width] = [m for m in ("PER,", "WER,", "loss") if f"  {m}" in heading]
    assert shown_at == {70: ["PER,"], 100: ["PER,", "WER,"], 160: ["PER,", "WER,", "loss"]}


def test_the_terminal_table_names_failed_runs_and_reads_no_markup(write_run: WriteRun) -> None:
    write_run("a=[red]", 0, test={"per": 0.2})
    error = {"error": "[bold]boom\nTraceback"}
    run = write_run("a=[blue]", 0, status="failed", record=error)
    lines = printed(compare(read_runs([run.parent])), 80)
    assert "failed: sweep/a=[blue],seed=0: [bold]boom" in lines
    assert [line for line in lines if line.startswith("[red] ")]


def test_the_csv_holds_every_group_and_metric(sweep: Path) -> None:
    write_report(compare(read_runs([sweep]), "attention=scaled"), sweep)
    with (sweep / "report.csv").open(newline="") as file:
        rows = {(row["group"], row["metric"]): row for row in csv.DictReader(file)}
    assert len(rows) == 9 + 2
    assert {
        name: (row["kind"], row["mean"]) for name, row in rows.items() if "trivial baseline" in name
    } == {
        ("trivial baseline", "per"): ("trivial_baseline", "0.7"),
        ("trivial baseline", "wer"): ("trivial_baseline", "0.99"),
    }
    row = rows["additive", "per"]
    values = [0.10 + 0.02 * seed for seed in range(3)]
    interval = mean_interval(values, bounds=(0, math.inf))
    assert (row["n"], row["runs"], row["finished"], row["failed"]) == ("3", "3", "3", "0")
    assert [float(row[name]) for name in ("mean", "low", "high")] == [
        interval.mean,
        interval.low,
        interval.high,
    ]
    assert float(row["trivial_baseline"]) == 0.70
    assert float(row["parameters"]) == 1_234_567
    assert float(row["training_seconds"]) == 75
    assert (row["baseline"], row["difference_n"]) == ("scaled", "3")
    assert float(row["difference"]) == pytest.approx(-0.09)
    assert float(row["adjusted_p_value"]) == float(row["p_value"]) < 0.05
    assert float(row["difference_confidence"]) == pytest.approx(0.95)
    single = rows["general", "per"]
    assert (single["n"], single["low"], single["p_value"]) == ("1", "", "")
    assert (single["finished"], single["failed"], single["diverged"]) == ("1", "1", "1")
    assert single["preempted"] == "1"
    assert rows["scaled", "per"]["baseline"] == ""


@pytest.mark.parametrize("status", ["diverged", "pruned"])
def test_a_group_without_a_result_has_its_row(status: str, write_run: WriteRun) -> None:
    write_run("a=x", 0)
    sweep = write_run("a=y", 0, status=status).parent
    _, row, _ = csv_rows(compare(read_runs([sweep])))
    assert (row["group"], row["n"], row["finished"], row[status]) == ("y", 0, 0, 1)
    assert "mean" not in row


def test_the_csv_has_no_interval_where_the_page_shows_none(compared: Compared) -> None:
    comparison = compared({"a": [0.1, 0.101], "b": [0.2, 0.201]}, "attention=a")
    ends = ("low", "high", "difference_low", "difference_high", "adjusted_p_value")
    row = next(row for row in csv_rows(comparison) if row["group"] == "b")
    assert (row["n"], row["difference_n"]) == (2, 2)
    assert [row[name] for name in ends] == [""] * len(ends)


def test_the_report_is_written_to_the_given_directory(sweep: Path, tmp_path: Path) -> None:
    assert write_report(compare(read_runs([sweep])), sweep) == sweep / "report.html"
    output = tmp_path / "new" / "place"
    assert write_report(compare(read_runs([sweep])), output) == output / "report.html"
    assert {path.name for path in output.iterdir()} == {"report.html", "report.csv"}
    # A report in a sweep is no run of it.
    assert len(read_runs([sweep])) == 10


def test_a_report_that_fails_leaves_the_old_one(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("no such template")

    write_report(compare(read_runs([sweep])), sweep)
    before = [(sweep / name).read_text() for name in ("report.html", "report.csv")]
    monkeypatch.setattr("attention_lab.reports.report.render_page", fail)
    with pytest.raises(RuntimeError, match="no such template"):
        write_report(compare(read_runs([sweep]), "scaled"), sweep)
    assert [(sweep / name).read_text() for name in ("report.html", "report.csv")] == before


def test_a_few_of_many_runs_without_a_result_are_named(write_run: WriteRun) -> None:
    for seed in range(13):
        run = write_run("a=x", seed, status="failed")
    lines = printed(compare(read_runs([run.parent])), 100)
    assert len([line for line in lines if line.startswith("failed: ")]) == 10
    assert lines[-1] == "and 3 more runs without a result"
