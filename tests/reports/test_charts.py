"""Charts draw values at their positions, and arrows for values beyond the axes."""

import math
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from attention_lab.reports.attention_summaries import summary_curves
from attention_lab.reports.breakdowns import breakdowns
from attention_lab.reports.charts.axis import Axis
from attention_lab.reports.charts.breakdowns import breakdown_chart
from attention_lab.reports.charts.costs import cost_chart
from attention_lab.reports.charts.intervals import interval_chart
from attention_lab.reports.charts.learning import learning_chart, learning_curve, summary_charts
from attention_lab.reports.charts.styles import colour, group_styles, is_hollow
from attention_lab.reports.charts.svg import CHARACTER, NARROWEST
from attention_lab.reports.comparison import Comparison, compare
from attention_lab.reports.costs import COSTS, pareto_front, pareto_sentences
from attention_lab.reports.page import render_page
from attention_lab.reports.runs import read_runs
from tests.reports.conftest import Compared, WriteRun


def test_curves_are_over_the_steps_that_all_seeds_share(write_run: WriteRun) -> None:
    write_run("a=x", 0, curve={100: 0.4, 200: 0.2, 300: 0.1})
    write_run("a=x", 1, curve={100: 0.6, 200: 0.3})
    run = write_run("a=x", 2, curve={100: 9.0}, status="failed")
    comparison = compare(read_runs([run.parent]))
    curve = learning_curve(comparison.groups[0], "per")
    assert {step: (point.n, point.mean) for step, point in curve.items()} == {
        100: (2, 50.0),
        200: (2, 25.0),
    }
    assert curve[100].low == 0
    assert not curve[100].is_bounded
    assert learning_curve(comparison.groups[0], "wer") == {}
    assert "validation PER, %" in learning_chart(comparison)


def test_a_single_validation_is_drawn_at_its_step(write_run: WriteRun) -> None:
    for label in "xy":
        run = write_run(f"a={label}", 0, curve={500: 0.4})
    chart = learning_chart(compare(read_runs([run.parent])))
    ticks = texts(chart)[: texts(chart).index("training step")]
    assert "500" in ticks
    assert all(tick.isdecimal() for tick in ticks)
    assert len(re.findall(r'<circle class="dot"', chart)) == 2


def texts(chart: str) -> list[str]:
    """The texts of a chart in the order of drawing; the ticks of x come first."""
    return re.findall(r">([^<>]*[^<>\s][^<>]*)</text>", chart)


@pytest.mark.parametrize(
    ("first", "last", "ticks"),
    [
        (0.80, 0.10, ["10", "15", "20", "30", "50", "70"]),
        (0.80, 0.60, ["60", "65", "70", "75"]),
    ],
)
def test_curves_that_fall_far_are_on_a_logarithmic_scale(
    write_run: WriteRun, first: float, last: float, ticks: list[str]
) -> None:
    run = write_run("a=x", 0, curve={1000: first, 2000: last})
    chart = learning_chart(compare(read_runs([run])))
    assert re.findall(r">(\d\d(?:\.\d)?)<", chart)[: len(ticks)] == ticks


def test_values_beyond_the_axis_are_shown_with_arrows(
    compared: Compared,
) -> None:
    near = {"a": [0.10, 0.11, 0.12], "b": [0.12, 0.13, 0.14], "c": [0.5, 0.501, 0.502]}
    chart = interval_chart(compared(near, trivial_baseline={"per": 0.9}))
    assert "50.1 →" in chart
    assert "trivial baseline 90.0 % →" in chart


def test_the_trivial_baseline_is_drawn_in_place_when_near(compared: Compared) -> None:
    near = {"a": [0.10, 0.11, 0.12], "b": [0.12, 0.13, 0.14]}
    chart = interval_chart(compared(near, trivial_baseline={"per": 0.2}))
    assert "trivial baseline 20.0 %<" in chart
    assert "→" not in chart


@pytest.mark.parametrize("scores", [[0.001, 0.004, 0.0], [0.999, 0.996, 1.0]])
def test_axes_of_rates_stay_within_0_and_100_percent(
    compared: Compared, scores: list[float]
) -> None:
    chart = interval_chart(compared({"a": scores, "b": scores[::-1]}, trivial_baseline={}))
    ticks = [float(text) for text in texts(chart) if re.fullmatch(r"[−-]?[\d.]+", text)]
    assert len(ticks) > 2
    assert all(0 <= tick <= 100 for tick in ticks)


def test_an_error_rate_may_be_above_100_percent(compared: Compared) -> None:
    chart = interval_chart(
        compared({"a": [1.5, 1.6, 1.7], "b": [1.2, 1.3, 1.4]}, trivial_baseline={})
    )
    assert {"120", "140", "160"} <= set(texts(chart))
    assert "→" not in chart


def test_an_accuracy_in_percent_is_drawn_too(write_run: WriteRun) -> None:
    """The names of metrics say that they are rates, but a task of one's own may disagree."""
    for label, value in (("x", 85.0), ("y", 80.0)):
        run = write_run(f"a={label}", 0, test={"accuracy": value}, result={"monitor": "accuracy"})
    assert "8000" in texts(interval_chart(compare(read_runs([run.parent]))))


def test_slices_beyond_100_percent_or_without_values_are_drawn(write_run: WriteRun) -> None:
    for seed, per in enumerate((0.5, 0.6, 1.6)):
        test = {"per": 0.5, "per/length=1-9": per, "loss/length=1-9": math.nan}
        run = write_run("a=x", seed, test=test)
    comparison = compare(read_runs([run.parent]))
    rates, losses = breakdowns(comparison.slice_metrics)
    chart = ElementTree.fromstring(breakdown_chart(comparison, rates))
    (line,) = chart.findall(".//line[@class='interval']")
    assert float(line.get("y2", "")) == 0  # the interval ends at the top of the chart
    assert "circle" not in breakdown_chart(comparison, losses)


@pytest.mark.parametrize(("scores", "heads"), [([0.4, 0.5, 0.6], 0), ([0.001, 0.004, 0.0], 1)])
def test_an_interval_beyond_the_axis_has_an_arrowhead(
    compared: Compared, scores: list[float], heads: int
) -> None:
    chart = interval_chart(compared({"a": scores}, trivial_baseline={}))
    assert chart.count("arrowhead") == heads


@pytest.mark.parametrize("per", [0.155, 0.085])
def test_labels_of_baselines_stay_within_the_chart(compared: Compared, per: float) -> None:
    known = {"a shortcut with a name that is rather long, and longer": {"per": per}}
    near = {"a": [0.10, 0.11, 0.12], "b": [0.12, 0.13, 0.14]}
    chart = interval_chart(compared(near, trivial_baseline={"per": 0.9}, shortcut_baselines=known))
    ((start, text),) = re.findall(r"(<text [^>]*)>(a short[^<]*)", chart)
    x = re.findall(r' x="([\d.]+)', start)[0]
    share = len(text) * CHARACTER / NARROWEST
    left = float(x) / 100 - share * ('"end"' in start) - share / 2 * ('"middle"' in start)
    assert 0 <= left <= left + share <= 1.0001
    assert "trivial baseline 90.0 % →" in chart


def test_identical_results_do_not_invert_the_axis(compared: Compared) -> None:
    # The mean of three times 0.4 is not quite 0.4.
    chart = interval_chart(compared({"a": [0.4, 0.4, 0.4], "b": [0.4, 0.4, 0.4]}))
    assert "→" not in chart.replace("% →", "")
    found = ticks(chart)
    assert found == sorted(found)
    assert len(found) > 2


def test_the_best_groups_have_distinct_styles(compared: Compared) -> None:
    scores = {f"g{i}": [0.5 - 0.01 * i] for i in range(14)}
    known = {group.label: style for group, style in group_styles(compared(scores)).items()}
    assert list(known) == [f"g{i}" for i in range(2, 14)]  # less is better
    assert len({(colour(style), is_hollow(style)) for style in known.values()}) == 12
    assert colour(None) not in map(colour, known.values())


def test_few_groups_have_styles_even_without_results(compared: Compared) -> None:
    assert list(group_styles(compared({"a": [None], "b": [0.5]})).values()) == [0, 1]


def placed(compared: Compared, costs: dict[str, tuple[float, float, float]]) -> Comparison:
    """Groups by their PER, with little noise on three seeds, their parameters and tokens/s."""
    for label, (per, parameters, speed) in costs.items():
        noise = random.Random(f"{label} of a sweep")
        result = {"parameters": parameters, "tokens_per_second": speed}
        scores = [per + noise.uniform(-0.003, 0.003) for _ in range(3)]
        comparison = compared({label: scores}, **result)
    return comparison


COSTS_OF = {
    "good": (0.10, 500, 10),
    "cheap": (0.20, 100, 10),
    "worse": (0.30, 200, 10),
    "equal": (0.2001, 100, 20),
}


def test_no_group_dominates_a_pareto_optimal_one(compared: Compared) -> None:
    comparison = placed(compared, COSTS_OF)
    parameters, speed, memory, _ = COSTS
    assert {group.label for group in pareto_front(comparison, parameters)} == {
        "good",
        "cheap",
        "equal",
    }
    assert {group.label for group in pareto_front(comparison, speed)} == {"good", "equal"}
    assert {group.label for group in pareto_front(comparison, memory)} == {"good"}


def test_the_pareto_front_equals_brute_force(compared: Compared) -> None:
    noise = random.Random(0)
    drawn = {f"g{i}": (noise.randint(1, 9) / 10, noise.randint(1, 9), 5.0) for i in range(20)}
    expected = {
        label
        for label, (per, cost, _) in drawn.items()
        if not any(p < per and c <= cost for p, c, _ in drawn.values())
    }
    assert {group.label for group in pareto_front(placed(compared, drawn), COSTS[0])} == expected
    assert 1 < len(expected) < 20


@pytest.mark.parametrize(
    "scores",
    [
        {"a": [0.10, 0.30, 0.20], "b": [0.12, 0.29, 0.25]},  # not distinguished
        {"a": [0.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0]},
        {"a": [0.1], "b": [0.5]},
    ],
)
def test_groups_that_the_seeds_do_not_distinguish_do_not_dominate(
    compared: Compared, scores: dict[str, list[float | None]]
) -> None:
    for parameters, label in enumerate(scores, 100):
        comparison = compared({label: scores[label]}, parameters=parameters)
    assert [group.label for group in pareto_front(comparison, COSTS[0])] == ["a", "b"]
    assert pareto_sentences(comparison)[1:] == [
        "Tokens/s: all have 10.1 k, within 1 %.",
        "Peak memory: all have 612 MB, within 1 %.",
        "Training time: all have 1.2 min, within 1 %.",
    ]


def test_a_cost_within_the_spread_of_the_seeds_is_not_higher(write_run: WriteRun) -> None:
    """A worse group is dominated although its median is 2 % faster: one of its seeds is slower."""
    for seed, speeds in enumerate([(100, 103), (101, 99), (99, 102)]):
        for label, per, speed in zip("ab", (0.1, 0.2), speeds, strict=True):
            test = {"per": per + seed ** (1 + per) / 1000}
            run = write_run(f"a={label}", seed, test=test, result={"tokens_per_second": speed})
            test = {"per": per + 0.3 + seed ** (3 + per) / 1000}
            write_run(f"a={label}fast", seed, test=test, result={"tokens_per_second": 10 * speed})
    comparison = compare(read_runs([run.parent]))
    assert [group.label for group in pareto_front(comparison, COSTS[1])] == ["a", "afast"]


def test_sentences_name_the_pareto_optimal_groups(compared: Compared) -> None:
    assert pareto_sentences(placed(compared, COSTS_OF)) == [
        "PER against parameters: good (500); equal (100) and cheap (100) are Pareto-optimal; the "
        "other is dominated.",
        "PER against tokens/s: good (10) and equal (20) are Pareto-optimal; the other 2 are "
        "dominated.",
        "Peak memory: all have 612 MB, within 1 %.",
        "Training time: all have 1.2 min, within 1 %.",
    ]


def ticks(chart: str) -> list[float]:
    return [float(text) for text in texts(chart) if re.fullmatch(r"\d+(\.\d+)?", text)]


@pytest.mark.parametrize(
    ("scores", "least"), [([0.9996, 0.9998, 1.0], 1), ([0.1231, 0.1232, 0.1235], 0.5)]
)
def test_axes_do_not_magnify_noise(compared: Compared, scores: list[float], least: float) -> None:
    """Differences of 0.04 points are small on their axis."""
    comparison = compared({"a": scores, "b": scores[::-1]}, trivial_baseline={})
    found = ticks(interval_chart(comparison))
    assert max(found) - min(found) >= least


@pytest.mark.parametrize(("parameters", "is_drawn"), [(100_040, False), (102_000, True)])
def test_costs_that_are_nearly_equal_are_not_drawn(
    compared: Compared, parameters: int, is_drawn: bool
) -> None:
    compared({"a": [0.1]}, parameters=100_000)
    chart = cost_chart(compared({"b": [0.2]}, parameters=parameters))
    assert ("parameters" in chart) == is_drawn


def test_only_costs_that_differ_are_drawn(compared: Compared) -> None:
    comparison = placed(compared, COSTS_OF)
    chart = cost_chart(comparison)
    assert "parameters (lower is better)" in texts(chart)
    assert "tokens/s (higher is better)" in texts(chart)
    assert "memory" not in chart


def test_without_differing_costs_there_is_no_chart(compared: Compared) -> None:
    comparison = compared({"a": [0.1], "b": [0.2]})
    assert cost_chart(comparison) == ""
    page = render_page(comparison)
    assert 'class="legend"' not in page
    assert "Quality against cost" in page
    assert "Large dots" not in page.partition("Quality against cost")[2]


def test_breakdowns_are_separate_and_in_order() -> None:
    names = ["accuracy/length=100-199", "accuracy/length=2-99", "loss/kind=b", "loss/kind=a", "x/y"]
    assert [
        (one.metric, one.kind, list(one.columns), one.is_ordered) for one in breakdowns(names)
    ] == [
        ("accuracy", "length", ["2-99", "100-199"], True),
        ("loss", "kind", ["b", "a"], False),
        ("x", "slice", ["y"], False),
    ]


def test_descriptions_and_tooltips_have_the_numbers(write_run: WriteRun) -> None:
    for label, per in (("<x>", 0.25), ("yyy", 0.5)):
        for seed in range(2):
            run = write_run(
                f"a={label}",
                seed,
                name=f"{per},{seed}",
                test={"per": per + 0.01 * seed, "per/length=1-9": per},
                curve={100: 2 * per, 1200: per},
                result={"parameters": int(1000 * per), "trivial_baseline": {"per": 0.7}},
            )
    comparison = compare(read_runs([run.parent]))
    (slices,) = breakdowns(comparison.slice_metrics)
    charts = {
        interval_chart(comparison): (
            "PER, % on test: <x> 25.5 (25.0, 26.0); yyy 50.5 (50.0, 51.0). trivial baseline 70.0",
            "<x>\n25.5 % (25.0, 26.0)\nseed 0: 25.0 %\nseed 1: 26.0 %",
        ),
        cost_chart(comparison): (
            "PER, % on test against parameters: <x> 25.5 at 250; yyy 50.5 at 500.",
            "yyy\n50.5 % (50.0, 51.0)\nparameters 500",
        ),
        learning_chart(comparison): (
            "validation PER, %: <x> from 50 at step 100 to 25 at step 1,200; "
            "yyy from 100 at step 100 to 50 at step 1,200.",
            "step 1,200\n<x> 25\nyyy 50",
        ),
        breakdown_chart(comparison, slices): (
            "PER, % by length (1-9): <x> 25.0; yyy 50.0.",
            "length 1-9\n<x> 25.0 % (25.0, 25.0)\nyyy 50.0 % (50.0, 50.0)",
        ),
    }
    for chart, (description, tooltip) in charts.items():
        tree = ElementTree.fromstring(chart)
        assert [svg.get("aria-label") for svg in tree.iter("svg") if svg.get("role")] == [
            description
        ]
        assert tooltip in [title.text for title in tree.iter("title")]


def test_summaries_of_attention_are_means_over_heads_and_seeds(write_run: WriteRun) -> None:
    rows = "step,layer,head,entropy,diagonal\n"
    for seed, shift in enumerate((0.0, 0.5)):
        run = write_run("a=x", seed, test={"per": 0.5})
        (run / "attention").mkdir()
        lines = [f"{step},decoder,{head},{step / 10 + head + shift},\n"
                 for step in (10, 20) for head in (0, 1)]  # fmt: skip
        damaged = "30,decoder,0,\x00,nan\n20,encoder,0,1.5,0.25\n40,decoder,0,1"
        (run / "attention" / "summaries.csv").write_text(rows + "".join(lines) + damaged)
    write_run("a=none", 0)
    comparison = compare(read_runs([run.parent]))
    found = summary_curves(group_styles(comparison))
    assert {name: list(layers) for name, layers in found.items()} == {
        "entropy": ["decoder", "encoder"],
        "diagonal": ["encoder"],
    }
    (curve,) = found["entropy"]["decoder"].values()
    assert {step: point.mean for step, point in curve.items()} == {10: 1.75, 20: 2.75}
    chart = summary_charts(comparison, "entropy", found["entropy"])
    assert "decoder: entropy: x from 1.75 at step 10 to 2.75 at step 20." in chart
    assert render_page(comparison).count("Attention: entropy, diagonal") == 1


def test_summaries_outside_of_the_run_are_not_read(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run("a=x", 0)
    (tmp_path / "summaries.csv").write_text("step,layer,head,entropy\n1,l,0,0.5\n")
    (run / "attention").mkdir()
    (run / "attention" / "summaries.csv").symlink_to(tmp_path / "summaries.csv")
    assert summary_curves(group_styles(compare(read_runs([run])))) == {}


def test_long_curves_are_thinned_and_keep_their_last_step(write_run: WriteRun) -> None:
    run = write_run("a=x", 0, curve={step: 1 / step for step in range(10, 10_011, 10)})
    curve = learning_curve(compare(read_runs([run])).groups[0], "per")
    assert 200 < len(curve) <= 400
    assert max(curve) == 10_010


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis(-3, 8), [-2.5, 0, 2.5, 5, 7.5]),
        (Axis(1e-9, 3e-9), [1e-9, 1.5e-9, 2e-9, 2.5e-9, 3e-9]),
        (Axis(1, 1e9, is_logarithmic=True), [1, 100, 1e4, 1e6, 1e8]),
        (Axis(3.1, 4.2, is_logarithmic=True), []),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks(5) == pytest.approx(ticks)
    assert all(-1e-9 <= axis.place(tick) <= 1 + 1e-9 for tick in ticks)


def test_ticks_of_steps_are_whole_numbers() -> None:
    assert Axis(498.9, 501.1).ticks(6, integer=True) == [499, 500, 501]
    assert Axis(0, 12).ticks(5, integer=True) == [0, 5, 10]
