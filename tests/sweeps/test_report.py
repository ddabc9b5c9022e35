"""The report says no more than the runs support, and looks right without any network."""

import base64
import csv
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from rich.console import Console

from attention_lab.sweeps.charts import (
    colour,
    interval_chart,
    is_hollow,
    learning_chart,
    learning_curve,
)
from attention_lab.sweeps.comparison import Comparison, compare
from attention_lab.sweeps.records import read_runs
from attention_lab.sweeps.report import (
    answer,
    csv_rows,
    render_page,
    terminal_table,
    write_report,
)
from attention_lab.sweeps.statistics import mean_interval
from attention_lab.sweeps.wording import (
    bounds,
    duration,
    p_value,
    quantity,
    shown,
    with_unit,
)
from tests.sweeps.conftest import WriteRun

Compared = Callable[..., Comparison]


@pytest.fixture
def compared(write_run: WriteRun) -> Compared:
    """Compares groups, given their PER on seeds 0, 1, …; None is a run that failed."""

    def comparison(
        scores: Mapping[str, Sequence[float | None]],
        baseline: str | None = None,
        **result: object,
    ) -> Comparison:
        for label, values in scores.items():
            for seed, value in enumerate(values):
                write = {"status": "failed"} if value is None else {"test": {"per": value}}
                run = write_run(f"attention={label}", seed, **write, result=result)
        return compare(read_runs([run.parent]), baseline)

    return comparison


CLEAR = [0.100, 0.101, 0.103, 0.102]
WORSE = [0.202, 0.200, 0.203, 0.204]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            {"a": WORSE, "b": CLEAR},
            "b has the lowest PER, 10.2 % [9.9, 10.4], lower than a on the same seeds "
            "(adjusted p < 0.001).",
        ),
        (
            {"a": CLEAR, "b": WORSE, "c": [0.30, 0.302, 0.301, 0.303]},
            "a has the lowest PER, 10.2 % [9.9, 10.4], lower than every other group on the same "
            "seeds (adjusted p < 0.001).",
        ),
        (
            {"a": CLEAR, "b": [0.101, 0.100, 0.105, 0.101]},
            "a has the lowest PER, 10.2 % [9.9, 10.4], but 4 seeds do not separate it from b.",
        ),
        (
            {"a": CLEAR, "b": WORSE, "c": [0.101, 0.100, 0.105, 0.101]},
            "a has the lowest PER, 10.2 % [9.9, 10.4], lower than b on the same seeds "
            "(adjusted p < 0.001), but 4 seeds do not separate it from c.",
        ),
        (
            {"a": [0.1, 0.2, 0.15], **{label: [0.2, 0.1, 0.16] for label in "bcde"}},
            "a has the lowest PER, 15.0 % [2.6, 27.4], but 3 seeds do not separate it from any "
            "other group.",
        ),
        (
            {"a": [0.1, 0.101], "b": [0.2, 0.201]},
            "a has the lowest PER, 10.1 % [9.4, 10.7], but two seeds are too few to trust any "
            "difference.",
        ),
        (
            {"a": [0.1], "b": [0.2]},
            "a has the lowest PER, 10.0 % (one seed), but one seed is too few to trust any "
            "difference.",
        ),
        (
            # Many seeds of one group say nothing about the single seed of the other.
            {"a": CLEAR, "b": [0.9 / 2, None, None, None]},
            "a has the lowest PER, 10.2 % [9.9, 10.4], but 4 seeds do not separate it from b.",
        ),
        ({"a": [0.1], "b": [0.1]}, "a and b share the lowest PER, 10.0 %."),
        (
            {"a": [0.1, 0.2, 0.15], "b": [None]},
            "The PER of a is 15.0 % [2.6, 27.4], with a floor of 70.0 %; no other group has a "
            "result.",
        ),
        ({"a": [0.8]}, "No group beats the floor, 70.0 % PER: a has 80.0 % (one seed)."),
        ({"a": [None]}, "No run has finished with a test metric, so there is nothing to compare."),
    ],
)  # fmt: skip
def test_the_answer_claims_what_the_seeds_support(
    compared: Compared, scores: dict[str, list[float | None]], sentence: str
) -> None:
    assert answer(compared(scores)) == sentence


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            {"base": WORSE, "a": CLEAR},
            "a has the lowest PER, 10.2 % [9.9, 10.4]; against the baseline base that is a "
            "difference of −10.1 points [−10.3, −9.8] on 4 shared seeds (adjusted p < 0.001).",
        ),
        (
            {"base": [0.101, 0.100, 0.105, 0.101], "a": CLEAR},
            "a has the lowest PER, 10.2 % [9.9, 10.4], but its difference to the baseline base "
            "may be chance: 0.0 points [−0.3, 0.2] on 4 shared seeds.",
        ),
        (
            {"base": [0.2, 0.21, None, None], "a": CLEAR},
            "a has the lowest PER, 10.2 % [9.9, 10.4], but it shares too few seeds with the "
            "baseline base to call it better.",
        ),
        (
            {"base": CLEAR, "a": WORSE},
            "base has the lowest PER, 10.2 % [9.9, 10.4], lower than a on the same seeds "
            "(adjusted p < 0.001).",
        ),
    ],
)  # fmt: skip
def test_the_answer_with_a_baseline(
    compared: Compared, scores: dict[str, list[float | None]], sentence: str
) -> None:
    assert answer(compared(scores, "attention=base")) == sentence


def test_the_answer_knows_when_higher_is_better(write_run: WriteRun) -> None:
    result = {"monitor": "accuracy", "mode": "max", "floor": {"accuracy": 0.1}}
    for seed, (low, high) in enumerate(zip(CLEAR, WORSE, strict=True)):
        write_run("a=low", seed, test={"accuracy": low + 0.5}, result=result)
        run = write_run("a=high", seed, test={"accuracy": high + 0.5}, result=result)
    comparison = compare(read_runs([run.parent]))
    assert answer(comparison) == (
        "high has the highest accuracy, 70.2 % [70.0, 70.5], higher than low on the same seeds "
        "(adjusted p < 0.001)."
    )
    assert "accuracy, % (higher is better)" in interval_chart(comparison)


def test_numbers_read_well() -> None:
    assert (shown("per", 0.1234), shown("loss", -0.12345), shown("wer", None)) == (
        "12.3",
        "−0.123",
        "–",
    )
    assert shown("per", -0.0001) == "0.0"
    assert (with_unit("token_accuracy", 0.5), with_unit("loss", 0.5)) == ("50.0 %", "0.500")
    assert bounds("per", mean_interval([0.1])) == "(one seed)"
    assert (p_value(0.0004), p_value(0.0123), p_value(0.04, "≤"), p_value(math.nan)) == (
        "p < 0.001",
        "p = 0.012",
        "p ≤ 0.04",
        "no p",
    )
    assert [quantity(x) for x in (950, 15_000, 123_456, 1_234_567, math.inf, None)] == [
        "950",
        "15.0 k",
        "123 k",
        "1.23 M",
        "never",
        "–",
    ]
    assert quantity(612e6, "B") == "612 MB"
    assert [duration(x) for x in (45, 204, 4320, None)] == ["45 s", "3.4 min", "1.2 h", "–"]


def printed(comparison: Comparison, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal_table(comparison, width))
    return capture.get().splitlines()


def test_shortcuts_stand_beside_the_floor(compared: Compared) -> None:
    known = {"first letter": {"per": 0.25}, "nothing known": {}}
    comparison = compared({"a": [0.1, 0.2]}, floor={"per": 0.3}, shortcuts=known)
    lines = printed(comparison, 100)
    assert [line.split()[-1] for line in lines if line.startswith("first letter ")] == ["25.0"]
    assert not [line for line in lines if "nothing known" in line]
    drawn = re.findall(r">([^<]+)<", interval_chart(comparison))
    assert {"first letter 25.0 %", "floor 30.0 %"} <= set(drawn)
    assert "first letter" in render_page(comparison)


def test_slices_are_numbers_but_no_columns(write_run: WriteRun) -> None:
    test = {"accuracy": 0.5, "accuracy/length=1-9": 0.75}
    run = write_run("attention=a", 0, test=test, result={"monitor": "accuracy", "mode": "max"})
    comparison = compare(read_runs([run.parent]))
    assert comparison.metrics == ["accuracy"]
    assert "length" not in " ".join(printed(comparison, 200))
    rows = {row["metric"]: row["mean"] for row in csv_rows(comparison)}
    assert rows == test
    assert with_unit("accuracy/length=1-9", 0.75) == "75.0 %"


@pytest.mark.parametrize("baseline", [None, "scaled"])
@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_table_fits(sweep: Path, width: int, baseline: str | None) -> None:
    lines = printed(compare(read_runs([sweep]), baseline), width)
    assert max(map(len, lines)) <= width
    (scaled,) = [line for line in lines if line.startswith("scaled ")]
    assert re.search(r"scaled +3 +21\.0 \[18\.5, 23\.5\] .* 1\.23 M +10\.1 k", scaled)
    (general,) = [line for line in lines if line.startswith("general ") and "n" in line]
    assert re.search(r"general +1/4 +15\.0 \(one seed\)", general)
    (floor,) = [line for line in lines if line.startswith("floor ")]
    assert "70.0" in floor
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


def test_the_terminal_table_names_what_failed_and_takes_no_markup(write_run: WriteRun) -> None:
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
    assert len(rows) == 9
    row = rows["additive", "per"]
    interval = mean_interval([0.10 + 0.02 * seed for seed in range(3)])
    assert (row["n"], row["runs"], row["finished"], row["failed"]) == ("3", "3", "3", "0")
    assert [float(row[name]) for name in ("mean", "low", "high")] == [
        interval.mean,
        interval.low,
        interval.high,
    ]
    assert float(row["floor"]) == 0.70
    assert float(row["parameters"]) == 1_234_567
    assert float(row["training_seconds"]) == 75
    assert (row["baseline"], row["difference_n"]) == ("scaled", "3")
    assert float(row["difference"]) == pytest.approx(-0.09)
    assert float(row["adjusted_p_value"]) == float(row["p_value"]) < 0.05
    single = rows["general", "per"]
    assert (single["n"], single["low"], single["p_value"]) == ("1", "", "")
    assert (single["finished"], single["failed"], single["diverged"]) == ("1", "2", "1")
    assert rows["scaled", "per"]["baseline"] == ""


def test_a_group_without_a_result_has_its_row(write_run: WriteRun) -> None:
    write_run("a=x", 0)
    sweep = write_run("a=y", 0, status="diverged").parent
    _, row = csv_rows(compare(read_runs([sweep])))
    assert (row["group"], row["n"], row["finished"], row["diverged"]) == ("y", 0, 0, 1)
    assert "mean" not in row


def test_the_report_goes_where_it_is_told(sweep: Path, tmp_path: Path) -> None:
    assert write_report(compare(read_runs([sweep])), sweep) == sweep / "report.html"
    output = tmp_path / "new" / "place"
    assert write_report(compare(read_runs([sweep])), output) == output / "report.html"
    assert {path.name for path in output.iterdir()} == {"report.html", "report.csv"}
    # A report in a sweep is no run of it.
    assert len(read_runs([sweep])) == 10


def parsed(page: str) -> ElementTree.Element:
    """The page as a tree: it is written as XML too, so that a missing end is an error."""
    return ElementTree.fromstring(page)


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def table_rows(page: str, heading: str) -> list[list[str]]:
    (section,) = [s for s in parsed(page).iter("section") if words(s[0]) == heading]
    return [[words(cell) for cell in row] for row in section.iter("tr")]


def test_the_page_loads_nothing(sweep: Path) -> None:
    page = render_page(compare(read_runs([sweep]), "scaled"))
    assert not re.search(r"https?:|//\w|@import|<script|<link|<iframe", page)
    links = re.findall(r'(?:src|href|url)[=(]["\']?([^"\')\s]+)', page)
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_the_page_is_in_order(sweep: Path) -> None:
    tree = parsed(render_page(compare(read_runs([sweep]), "scaled")))
    assert [words(heading) for heading in tree.iter("h2")] == [
        "Test results",
        "Numbers",
        "Difference to scaled",
        "Learning curves",
        "Attention maps",
        "Runs without a result",
        "Provenance",
    ]
    names = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(names) == len(set(names))


def test_the_numbers_of_the_page(sweep: Path) -> None:
    page = render_page(compare(read_runs([sweep]), "scaled"))
    rows = {row[0]: row for row in table_rows(page, "Numbers")}
    assert rows["additive"][1:4] == ["3", "12.0 [7.0, 17.0]", "42.0 [37.0, 47.0]"]
    assert rows["additive"][5:] == ["1.23 M", "10.1 k", "612 MB", "200", "1.2 min"]
    assert rows["general"][1:3] == ["1/4", "15.0 (one seed)"]
    assert rows["floor"][2:5] == ["70.0", "99.0", "–"]
    differences = {row[0]: row for row in table_rows(page, "Difference to scaled")}
    assert differences["additive"][1:3] == ["3", "−9.0 [−11.5, −6.5]p = 0.0041"]
    assert differences["general"][1:3] == ["1", "−5.0 (one seed)no p"]


def test_the_page_names_every_run_without_a_result(sweep: Path) -> None:
    rows = table_rows(render_page(compare(read_runs([sweep]))), "Runs without a result")
    found = {tuple(row[2:4]): row[4] for row in rows[1:]}
    assert found["1", "diverged"] == "the loss is nan at step 70"
    assert found["2", "failed"] == "RuntimeError: out of memory"
    assert found["3", "failed"].startswith("died without a word")


def test_provenance(sweep: Path) -> None:
    tree = parsed(render_page(compare(read_runs([sweep]))))
    terms = [words(element) for element in tree.iter("dt")]
    facts = dict(zip(terms, (words(element) for element in tree.iter("dd")), strict=True))
    assert facts["Swept"] == "attention"
    assert facts["In all runs"] == "data=g2p"
    assert facts["Seeds"] == "0, 1, 2, 3"
    assert facts["Git revision"] == "0123abc"
    assert facts["Versions"] == "torch 2.13.0"
    assert facts["Ran"].endswith("2026-01-02 04:05 +00:00")


def test_maps_are_those_of_the_first_seed_at_the_last_step(sweep: Path) -> None:
    # Step 1000 comes after step 200, though not in the order of letters.
    first = sweep / "attention=additive,data=g2p,seed=0" / "attention"
    (first / "step-1000").mkdir()
    Image.new("RGB", (40, 4), (9, 9, 9)).save(first / "step-1000" / "word-self_attention.png")
    tree = parsed(render_page(compare(read_runs([sweep]))))
    (image,) = tree.iter("img")
    data = base64.b64decode(str(image.get("src")).removeprefix("data:image/png;base64,"))
    assert data == (first / "step-1000" / "word-self_attention.png").read_bytes()
    assert image.get("alt") == "self_attention of additive on word"
    assert [words(caption) for caption in tree.iter("figcaption")] == ["additiveseed 0, step 1,000"]
    assert [element for element in tree.iter("div") if element.get("class") == "maps wide"]


def test_layers_may_differ_between_groups(write_run: WriteRun) -> None:
    write_run("a=x", 0, maps=["step-1/word-one.png", "step-1/word-both.png"])
    run = write_run("a=y", 0, maps=["step-1/word-both.png", "step-1/other-both.png"])
    tree = parsed(render_page(compare(read_runs([run.parent]))))
    assert [image.get("alt") for image in tree.iter("img")] == [
        "both of x on word",
        "both of y on word",
        "one of x on word",
        "both of y on other",
    ]


def test_what_users_write_is_escaped(write_run: WriteRun) -> None:
    script = "<script>alert('&')</script>"
    error = {"error": f"{script} failed", "versions": {script: script}, "git_revision": script}
    for seed in range(2):
        curve, maps = {1: 0.5, 2: 0.4}, [f"step-1/<script>-{seed}<script>.png"]
        write_run(f"x={script}", seed, name=f"{seed}", curve=curve, record=error, maps=maps)
    write_run("x=$\\frac{$ #010101", 0, name="<script>", curve=curve)
    run = write_run(f"x={script}", 2, name="3", status="failed", record=error)
    page = render_page(compare(read_runs([run.parent]), f"x={script}"))
    assert "<script" not in page
    assert words(parsed(page)).count(script) > 10
    assert "$\\frac{$ #010101" in words(next(parsed(page).iter("svg")))


def corrupt_metrics(sweep: Path) -> None:
    for file in sweep.glob("*/metrics.csv"):
        file.write_bytes(b'step,validation/per\n100,"0.5\n\x00\xff,,')


def only_one_run(sweep: Path) -> None:
    for run in sorted(sweep.iterdir())[1:]:
        shutil.rmtree(run)


def one_seed(sweep: Path) -> None:
    for run in sweep.glob("*seed=[1-9]"):
        shutil.rmtree(run)


def nothing_finished(sweep: Path) -> None:
    for file in sweep.glob("*/result.json"):
        file.unlink()


def no_maps(sweep: Path) -> None:
    for maps in sweep.glob("*/attention"):
        shutil.rmtree(maps)


def empty_results(sweep: Path) -> None:
    for file in sweep.glob("*/result.json"):
        file.write_text("{}")


def strange_results(sweep: Path) -> None:
    for file in sweep.glob("*/result.json"):
        file.write_text('{"monitor": "f1", "test": {"per": "low", "f1": true}, "floor": 3}')


def no_record_at_all(sweep: Path) -> None:
    for file in sweep.glob("*/status.json"):
        file.write_text("")


@pytest.mark.parametrize(
    "damage",
    [
        corrupt_metrics,
        only_one_run,
        one_seed,
        nothing_finished,
        no_maps,
        empty_results,
        strange_results,
        no_record_at_all,
    ],
)
def test_no_sweep_is_too_poor_for_a_report(sweep: Path, damage: Callable[[Path], None]) -> None:
    damage(sweep)
    runs = read_runs([sweep])
    page = write_report(compare(read_runs([sweep])), sweep)
    assert parsed(page.read_text()).find(".//h1") is not None
    assert printed(compare(runs), 80)
    # Every run is there, finished or not.
    for run in runs:
        assert run.name in page.read_text()


def test_curves_are_over_the_steps_that_all_seeds_share(write_run: WriteRun) -> None:
    write_run("a=x", 0, curve={100: 0.4, 200: 0.2, 300: 0.1})
    write_run("a=x", 1, curve={100: 0.6, 200: 0.3})
    run = write_run("a=x", 2, curve={100: 9.0}, status="failed")
    comparison = compare(read_runs([run.parent]))
    assert learning_curve(comparison.groups[0], "validation/per") == {
        100: [0.4, 0.6],
        200: [0.2, 0.3],
    }
    assert learning_curve(comparison.groups[0], "validation/wer") == {}
    assert "validation PER, %" in learning_chart(comparison)


@pytest.mark.parametrize(
    ("first", "last", "ticks"),
    [
        (0.80, 0.10, ["10", "15", "20", "30", "50", "70"]),
        (0.80, 0.60, ["60", "62.5", "65", "67.5"]),
    ],
)
def test_curves_that_fall_far_are_on_a_logarithmic_scale(
    write_run: WriteRun, first: float, last: float, ticks: list[str]
) -> None:
    run = write_run("a=x", 0, curve={1000: first, 2000: last})
    chart = learning_chart(compare(read_runs([run])))
    assert re.findall(r">(\d\d(?:\.\d)?)<", chart)[: len(ticks)] == ticks


def test_the_floor_and_outliers_are_pointed_at_when_off_the_scale(compared: Compared) -> None:
    near = {"a": [0.10, 0.11, 0.12], "b": [0.12, 0.13, 0.14], "c": [0.5, 0.501, 0.502]}
    chart = interval_chart(compared(near, floor={"per": 0.9}))
    assert "50.1 →" in chart
    assert "floor 90.0 % →" in chart


def test_the_floor_is_drawn_in_place_when_near(compared: Compared) -> None:
    near = {"a": [0.10, 0.11, 0.12], "b": [0.12, 0.13, 0.14]}
    chart = interval_chart(compared(near, floor={"per": 0.2}))
    assert "floor 20.0 %<" in chart
    assert "→" not in chart


def test_identical_results_do_not_turn_the_axis_round(compared: Compared) -> None:
    # The mean of three times 0.4 is not quite 0.4.
    chart = interval_chart(compared({"a": [0.4, 0.4, 0.4], "b": [0.4, 0.4, 0.4]}))
    assert "→" not in chart.replace("% →", "")
    ticks = [float(tick) for tick in re.findall(r">(\d\d(?:\.\d)?)<", chart)]
    assert ticks == sorted(ticks)
    assert len(ticks) > 2


def test_groups_that_share_a_colour_differ_in_shape() -> None:
    looks = {(colour(row), is_hollow(row)) for row in range(12)}
    assert len(looks) == 12


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
def test_a_browser_shows_the_charts(sweep: Path, tmp_path: Path) -> None:
    page, picture = write_report(compare(read_runs([sweep])), tmp_path), tmp_path / "page.png"
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2400",
        f"--screenshot={picture}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**24)
    counts = {shade: count for count, shade in colours or []}
    for row, group in enumerate(compare(read_runs([sweep])).groups):
        # A mark in a table has about 70 pixels; a group with several seeds has lines as well.
        least = 400 if len(group.finished) > 1 else 100
        pixels = tuple(bytes.fromhex(colour(row).removeprefix("#")))
        assert counts.get(pixels, 0) > least, f"{group.label} is not in the charts"
