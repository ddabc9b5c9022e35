"""The table and the chart of ablated heads."""

import csv

from attention_lab.reports.head_ablation import (
    chart,
    csv_text,
    head_effect,
    is_distinguishable,
    table_row,
)

ALL = {part: 0.1 + 0.01 * part for part in range(5)}
WORSE = {part: value + 0.05 + 0.001 * part for part, value in ALL.items()}
NOISE = {part: value + (0.02 if part % 2 else -0.015) for part, value in ALL.items()}


def test_only_a_clear_difference_has_a_star() -> None:
    worse, noise = (head_effect("layer", 0, parts, ALL, 4) for parts in (WORSE, NOISE))
    assert is_distinguishable(worse.difference)
    assert not is_distinguishable(noise.difference)
    assert table_row("per", worse, 5).endswith("*")
    assert not table_row("per", noise, 5).endswith("*")


def test_intervals_are_wider_with_more_heads() -> None:
    few, many = (head_effect("layer", 0, NOISE, ALL, heads).difference for heads in (1, 48))
    assert many.low < few.low < few.high < many.high


def test_a_head_without_effect_has_no_interval() -> None:
    same = head_effect("layer", 1, ALL, ALL, 4)
    assert not is_distinguishable(same.difference)
    assert table_row("per", same, 5).split() == ["layer", "1", "12.0", "0.0", "(all", "equal)"]
    lines = list(csv.DictReader(csv_text("per", 0.12, [same]).splitlines()))
    assert [line["head"] for line in lines] == ["", "1"]
    assert lines[1]["low"] == ""


def test_the_chart_fills_the_clear_differences() -> None:
    effects = [head_effect("layer", head, (WORSE, NOISE)[head], ALL, 2) for head in range(2)]
    (axes,) = chart("per", effects).axes
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert faces == ["C0", "white"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "layer, head 0",
        "layer, head 1",
    ]
    assert axes.get_xlabel() == "change of PER, points without the head"
