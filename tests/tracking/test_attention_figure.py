"""Figures of one map: the right colours, vectors, and labels that do not overlap."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from attention_lab.tracking import attention_figure
from attention_lab.tracking.attention_map import AttentionMap


def write_figure(map: AttentionMap, head: str, kind: str, path: Path) -> None:
    attention_figure.write_figure([("", map)], head, kind, path)


def map_of(weights: list[list[list[float]]], hidden: torch.Tensor | None = None) -> AttentionMap:
    values = torch.tensor(weights)
    rows = [f"r{i}" for i in range(values.shape[1])]
    columns = [f"c{i}" for i in range(values.shape[2])]
    return AttentionMap(0, "e", "l", rows, columns, values, hidden=hidden)


def fills(file: Path) -> list[str]:
    """The colours of the shapes of an SVG."""
    return re.findall(r"fill: (#\w+)", file.read_text("utf-8"))


def test_an_svg_has_a_shape_in_the_right_colour_for_each_cell(tmp_path: Path) -> None:
    weights = [[[0.0, 0.25, 1.0], [-1.0, 2.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    write_figure(map_of(weights), "0", "svg", tmp_path / "a.svg")
    assert "<image" not in (tmp_path / "a.svg").read_text("utf-8")
    cells = [colour for colour in fills(tmp_path / "a.svg") if colour != "none"]
    for colour in ("#002a66", "#6390d2", "#5a0b01"):  # 1 and 2, 0.25, -1
        assert colour in cells
    write_figure(map_of(weights), "1", "svg", tmp_path / "b.svg")
    assert fills(tmp_path / "b.svg") != fills(tmp_path / "a.svg")


def test_a_pdf_has_no_image_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        write_figure(map_of([[[0.5, 0.5]]]), "mean", "pdf", tmp_path / name)
    written = (tmp_path / "a.pdf").read_bytes()
    assert b"/Subtype /Image" not in written
    assert written == (tmp_path / "b.pdf").read_bytes()


def test_hidden_cells_are_hatched(tmp_path: Path) -> None:
    hidden = torch.tensor([[[False, True], [False, False]]])
    weights = [[[1.0, 0.0], [1.0, 0.0]]]
    for name, mask in (("a.png", None), ("b.png", hidden)):
        write_figure(map_of(weights, mask), "0", "png", tmp_path / name)
    with Image.open(tmp_path / "a.png") as plain, Image.open(tmp_path / "b.png") as hatched:
        found = [
            {colour[:3] for _, colour in each.getcolors(100_000) or []} for each in (plain, hatched)
        ]
        assert [(0xC3, 0xC8, 0xD0) in colours for colours in found] == [False, True]


def test_labels_of_the_scale_do_not_overlap(tmp_path: Path) -> None:
    for weights in ([[[0.5, 1.5]]], [[[-1.5, 1.5]]], [[[0.1] * 400] * 400]):
        write_figure(map_of(weights), "max", "svg", tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text("utf-8")
        places = [
            (float(x), len(label))
            for label, x in re.findall(
                r"<!-- (≥?≤?−?[\d.]+) -->\s*<g [^>]*translate\(([\d.-]+)", text, re.DOTALL
            )
        ]
        assert len(places) >= 5
        for (left, length), (right, _) in itertools.pairwise(places):
            assert right - left > 3.5 * length


def test_any_text_can_be_a_name(tmp_path: Path) -> None:
    names = ["$x_", "$x_$", "<b>", "שלום", "👩‍👩‍👧", "x" * 200, "\n"]
    each = AttentionMap(0, "e", "l", names, names, torch.full((1, 7, 7), 0.5))
    for kind in ("svg", "png", "pdf"):
        write_figure(each, "0", kind, tmp_path / f"a.{kind}")


@pytest.mark.parametrize(("name", "turned"), [("a", 0), ("token", 3)])
def test_names_of_columns_that_would_overlap_are_turned(
    name: str, turned: int, tmp_path: Path
) -> None:
    each = AttentionMap(0, "e", "l", ["r"], [name] * 3, torch.full((1, 1, 3), 0.5))
    write_figure(each, "0", "svg", tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text("utf-8").count("rotate(-90)") == turned


def test_a_weight_that_is_not_finite_is_magenta_and_does_not_change_the_scale(
    tmp_path: Path,
) -> None:
    for weight in (float("nan"), float("-inf")):
        for head in ("0", "mean", "max"):
            each = map_of([[[weight, 0.5]], [[0.5, 0.5]]])
            write_figure(each, head, "svg", tmp_path / "a.svg")
            is_drawn = not (head == "max" and weight < 0)  # the other head's weight is greater
            text = (tmp_path / "a.svg").read_text("utf-8")
            assert ("#c800c8" in fills(tmp_path / "a.svg")) == is_drawn
            assert ("<!-- magenta: NaN or infinite -->" in text) == is_drawn
            assert "<!-- −1 -->" not in text


def test_the_legend_names_hidden_pairs(tmp_path: Path) -> None:
    hidden = torch.tensor([[[False, True]]])
    write_figure(map_of([[[1.0, torch.nan]]], hidden), "0", "svg", tmp_path / "a.svg")
    assert "<!-- hatched: hidden by the mask -->" in (tmp_path / "a.svg").read_text("utf-8")
    assert "#c800c8" not in fills(tmp_path / "a.svg")


def test_maps_of_different_sizes_are_side_by_side(tmp_path: Path) -> None:
    """Their cells have the same size, and both titles are whole."""
    short, long = map_of([[[0.5, 0.5]]]), map_of([[[1.0, 0.0, 0.0, 0.0]] * 6])
    sizes = []
    for panels in ([("one", short)], [("one\nstep 2", short), ("another run\nstep 4", long)]):
        attention_figure.write_figure(panels, "0", "svg", tmp_path / "a.svg")
        content = (tmp_path / "a.svg").read_text("utf-8")
        sizes.append(
            [float(each) for each in re.findall(r'(?:width|height)="([\d.]+)pt"', content)]
        )
        for title, _ in panels:
            for line in title.splitlines():
                assert (f"<!-- {line} -->" in content) == (len(panels) > 1)
    cells = 72 * 0.3
    assert sizes[1][0] > sizes[0][0] + 4 * cells - 2.4 * 72
    assert sizes[1][1] > sizes[0][1] + 5 * cells
