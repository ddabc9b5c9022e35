"""Charts show what there is, in its place, and point at what is off the scale."""

import re

import pytest

from attention_lab.sweeps.charts import (
    colour,
    interval_chart,
    is_hollow,
    learning_chart,
    learning_curve,
)
from attention_lab.sweeps.comparison import compare
from attention_lab.sweeps.records import read_runs
from tests.sweeps.conftest import Compared, WriteRun


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
