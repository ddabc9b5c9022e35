"""Charts show what there is, in its place, and point at what is off the scale."""

import random
import re

import pytest

from attention_lab.reports.charts.canvas import colour, is_hollow, looks
from attention_lab.reports.charts.costs import cost_chart
from attention_lab.reports.charts.intervals import interval_chart
from attention_lab.reports.charts.learning import learning_chart, learning_curve
from attention_lab.reports.comparison import Comparison, compare
from attention_lab.reports.costs import COSTS, front, fronts_in_words
from attention_lab.reports.records import read_runs
from attention_lab.reports.slices import sliced
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
    # Of one degree of freedom t is 12.7062; the deviation is 20 / √2 points.
    assert curve[100].high == pytest.approx(50 + 12.7062 * 10, rel=1e-4)
    assert learning_curve(comparison.groups[0], "wer") == {}
    assert "validation PER, %" in learning_chart(comparison)


def test_a_single_validation_is_seen_at_its_step(write_run: WriteRun) -> None:
    for label in "xy":
        run = write_run(f"a={label}", 0, curve={500: 0.4})
    chart = learning_chart(compare(read_runs([run.parent])))
    ticks = texts(chart)[: texts(chart).index("training step")]
    assert "500" in ticks
    assert all(tick.isdecimal() for tick in ticks)
    # One mark on each curve, and one beside each name.
    lines = re.findall(r'<g id="learning-line2d_\d+">(.*?)</g>\s*</g>', chart, re.DOTALL)
    assert len([line for line in lines if "<use" in line and "stroke: #" in line]) == 4


def texts(chart: str) -> list[str]:
    """What is written in a chart, in the order of drawing: the ticks of x come first."""
    return re.findall(r">([^<>]*[^<>\s][^<>]*)</text>", chart)


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


@pytest.mark.parametrize("scores", [[0.001, 0.004, 0.0], [0.999, 0.996, 1.0]])
def test_no_axis_of_a_rate_leaves_0_to_100_percent(compared: Compared, scores: list[float]) -> None:
    chart = interval_chart(compared({"a": scores, "b": scores[::-1]}, floor={}))
    ticks = [float(text) for text in texts(chart) if re.fullmatch(r"[−-]?[\d.]+", text)]
    assert len(ticks) > 2
    assert all(0 <= tick <= 100 for tick in ticks)


def test_an_error_rate_may_be_above_100_percent(compared: Compared) -> None:
    chart = interval_chart(compared({"a": [1.5, 1.6, 1.7], "b": [1.2, 1.3, 1.4]}, floor={}))
    assert {"120", "140", "160"} <= set(texts(chart))
    assert "→" not in chart


def test_an_interval_beyond_the_axis_has_an_arrowhead(compared: Compared) -> None:
    inside = interval_chart(compared({"a": [0.4, 0.5, 0.6]}, floor={}))
    beyond = interval_chart(compared({"b": [0.001, 0.004, 0.0]}, floor={}))
    assert "arrowhead" not in inside
    assert beyond.count("arrowhead") == 1


@pytest.mark.parametrize("per", [0.155, 0.085])
def test_labels_of_yardsticks_stay_in_sight(compared: Compared, per: float) -> None:
    known = {"a shortcut with a name that is rather long, and longer": {"per": per}}
    near = {"a": [0.10, 0.11, 0.12], "b": [0.12, 0.13, 0.14]}
    chart = interval_chart(compared(near, floor={"per": 0.9}, shortcuts=known))
    ((style, x, text),) = re.findall(
        r'<text style="([^"]*)" x="([\d.]+)"[^>]*>(a short[^<]*)', chart
    )
    width = 7 * len(text)
    left = float(x) - width * ("anchor: end" in style) - width / 2 * ("anchor: middle" in style)
    assert 0 <= left <= left + width <= 1040
    assert "floor 90.0 % →" in chart


def test_identical_results_do_not_turn_the_axis_round(compared: Compared) -> None:
    # The mean of three times 0.4 is not quite 0.4.
    chart = interval_chart(compared({"a": [0.4, 0.4, 0.4], "b": [0.4, 0.4, 0.4]}))
    assert "→" not in chart.replace("% →", "")
    ticks = [float(tick) for tick in re.findall(r">(\d\d(?:\.\d)?)<", chart)]
    assert ticks == sorted(ticks)
    assert len(ticks) > 2


def test_the_best_groups_have_looks_of_their_own(compared: Compared) -> None:
    scores = {f"g{i}": [0.5 - 0.01 * i] for i in range(14)}
    known = {group.label: look for group, look in looks(compared(scores)).items()}
    assert list(known) == [f"g{i}" for i in range(2, 14)]  # less is better
    assert len({(colour(look), is_hollow(look)) for look in known.values()}) == 12
    assert colour(None) not in map(colour, known.values())


def test_few_groups_have_looks_even_without_results(compared: Compared) -> None:
    assert list(looks(compared({"a": [None], "b": [0.5]})).values()) == [0, 1]


def placed(compared: Compared, costs: dict[str, tuple[float, float, int]]) -> Comparison:
    """Groups by their PER, parameters and tokens/s."""
    for label, (per, parameters, speed) in costs.items():
        result = {"parameters": parameters, "tokens_per_second": speed}
        comparison = compared({label: [per]}, **result)
    return comparison


COSTS_OF = {
    "good": (0.10, 500, 10),
    "cheap": (0.20, 100, 10),
    "beaten": (0.30, 200, 10),
    "equal": (0.20, 100, 20),
}


def test_the_front_is_what_none_beats_in_both(compared: Compared) -> None:
    comparison = placed(compared, COSTS_OF)
    parameters, speed, memory, _ = COSTS
    assert {group.label for group in front(comparison, parameters)} == {"good", "cheap", "equal"}
    assert {group.label for group in front(comparison, speed)} == {"good", "equal"}
    assert {group.label for group in front(comparison, memory)} == {"good"}


def test_the_front_by_brute_force(compared: Compared) -> None:
    noise = random.Random(0)
    drawn = {f"g{i}": (noise.randint(1, 9) / 10, noise.randint(1, 9), 5) for i in range(30)}
    expected = {
        label
        for label, (per, cost, _) in drawn.items()
        if not any((p <= per and c < cost) or (p < per and c <= cost) for p, c, _ in drawn.values())
    }
    assert {group.label for group in front(placed(compared, drawn), COSTS[0])} == expected
    assert 1 < len(expected) < 30


def test_the_front_is_named_in_words(compared: Compared) -> None:
    assert fronts_in_words(placed(compared, COSTS_OF)) == [
        "PER against parameters: good (500); cheap (100) and equal (100) are on the front; the "
        "other is beaten.",
        "PER against tokens/s: good (10) and equal (20) are on the front; the other 2 are beaten.",
        "Peak memory: all have 612 MB.",
        "Training time: all have 1.2 min.",
    ]


def test_only_costs_that_differ_are_drawn(compared: Compared) -> None:
    comparison = placed(compared, COSTS_OF)
    chart = cost_chart(comparison)
    assert "parameters (lower is better)" in texts(chart)
    assert "tokens/s (higher is better)" in texts(chart)
    assert "memory" not in chart


def test_nothing_is_drawn_where_no_cost_differs(compared: Compared) -> None:
    assert cost_chart(compared({"a": [0.1], "b": [0.2]})) == ""


def test_slices_are_told_apart_and_put_in_order() -> None:
    names = ["accuracy/length=100-199", "accuracy/length=2-99", "loss/kind=b", "loss/kind=a", "x/y"]
    assert [(one.metric, one.kind, list(one.columns), one.is_ordered) for one in sliced(names)] == [
        ("accuracy", "length", ["2-99", "100-199"], True),
        ("loss", "kind", ["b", "a"], False),
        ("x", "slice", ["y"], False),
    ]
