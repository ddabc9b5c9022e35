"""Images of attention maps: cells, colours and names are right."""

import io
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageChops
from torch import Tensor

from attention_lab.tracking import attention_image
from attention_lab.tracking.attention_image import levels
from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.colormaps import (
    NIGHT_TO_BLUE,
    NIGHT_TO_RED,
    WHITE_TO_BLUE,
    WHITE_TO_RED,
    interpolate,
)

Box = tuple[int, int, int, int]


def render(map: AttentionMap) -> Image.Image:
    """The image of a map with the colours of its palette."""
    return attention_image.render(map).convert("RGB")


def attention_map(
    weights: Tensor, rows: list[str] | None = None, columns: list[str] | None = None
) -> AttentionMap:
    _, length, memory_length = weights.shape
    return AttentionMap(
        step=100,
        example="example",
        layer="layer",
        rows=rows or [f"r{i}" for i in range(length)],
        columns=columns or [f"c{i}" for i in range(memory_length)],
        weights=weights,
    )


def changed(one: Image.Image, other: Image.Image) -> Box:
    """The box in which two images differ: left, top, right, bottom."""
    box = ImageChops.difference(one, other).getbbox()
    assert box is not None, "the pictures are equal"
    return box


def cell(shape: tuple[int, int, int], head: int, row: int, column: int) -> Box:
    """The box of one weight in an image."""
    weights = torch.zeros(shape)
    before = render(attention_map(weights))
    weights[head, row, column] = 1.0
    return changed(before, render(attention_map(weights)))


def colour(picture: Image.Image, box: Box) -> tuple[int, ...]:
    pixel = picture.getpixel(((box[0] + box[2]) // 2, (box[1] + box[3]) // 2))
    assert isinstance(pixel, tuple)
    return pixel


def test_only_the_cell_of_a_weight_gets_darker() -> None:
    weights = torch.zeros(1, 3, 4)
    weights[0, 1, 2] = 1.0
    picture = render(attention_map(weights))
    assert colour(picture, cell((1, 3, 4), 0, 1, 2)) == (0x00, 0x2A, 0x66)
    for row, column in [(2, 1), (1, 1), (0, 2), (1, 3)]:
        assert colour(picture, cell((1, 3, 4), 0, row, column)) == (255, 255, 255)


def test_rows_run_down_and_columns_to_the_right() -> None:
    first, below, right = (cell((2, 5, 3), 0, *place) for place in [(0, 0), (1, 0), (0, 1)])
    size = first[2] - first[0]
    assert (below[0], right[1]) == (first[0], first[1])
    assert size <= below[1] - first[1] <= size + 2
    assert size <= right[0] - first[0] <= size + 2


@pytest.mark.parametrize("shape", [(8, 10, 10), (1, 8, 6), (2, 1, 24)])
def test_cells_of_short_sequences_are_square_and_of_a_good_size(
    shape: tuple[int, int, int],
) -> None:
    left, top, right, bottom = cell(shape, 0, 0, 4)
    assert right - left == bottom - top
    assert 20 <= right - left <= 2 * 28


def test_heads_are_in_reading_order() -> None:
    boxes = [cell((6, 4, 4), head, 0, 0) for head in range(6)]
    assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))
    assert len({box[1] for box in boxes}) == 2
    assert len({box[0] for box in boxes}) == 3


def test_a_weight_has_the_same_colour_in_every_image() -> None:
    alone, beside_one = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    alone[0, 0, 0] = beside_one[0, 0, 0] = 0.3
    box = cell((1, 2, 2), 0, 0, 0)
    assert colour(render(attention_map(alone)), box) == colour(
        render(attention_map(beside_one)), box
    )
    assert colour(render(attention_map(alone)), box) != (255, 255, 255)


@pytest.mark.parametrize("keys", [64, 128])
def test_a_uniform_weight_over_many_keys_is_not_white(keys: int) -> None:
    weights = torch.full((1, keys, keys), 1 / keys)
    shade = colour(render(attention_map(weights)), cell((1, keys, keys), 0, keys // 2, keys // 2))
    assert oklab_lightness(torch.tensor(shade) / 255) < 0.95


def test_weights_below_0_are_red_and_beyond_1_as_dark_as_1() -> None:
    weights = torch.tensor([[[-1.0, 1.0, -0.3, 0.3], [-1.5, 1.5, 0.0, 0.0]]])
    picture = render(attention_map(weights, columns=["a", "b", "c", "d"], rows=["a", "b"]))
    # Where a weight changes is where it is shown, and the scale stays as it is.
    shown = []
    for place in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]:
        other = weights.clone()
        other[0, *place] = 0
        box = changed(
            picture,
            render(attention_map(other, list("ab"), list("abcd"))).crop((0, 0, *picture.size)),
        )
        cells = (box[0], box[1], box[0] + 20, box[1] + 20)
        shown.append(colour(picture, cells))
    least, most, red, blue, far_below, far_above = shown
    assert least == far_below == (0x5A, 0x0B, 0x01)
    assert most == far_above == (0x00, 0x2A, 0x66)
    assert red[0] > red[2]
    assert blue[0] < blue[2]
    lightness = [float(oklab_lightness(torch.tensor(shade) / 255)) for shade in (red, blue)]
    assert lightness[0] == pytest.approx(lightness[1], abs=0.01)


def test_the_colour_scale_covers_the_range_of_the_weights() -> None:
    """Maps with different ranges have different scales."""
    pictures = [
        render(attention_map(torch.tensor([[[1.0, weight]]]), ["a"], ["a", "b"]))
        for weight in (0.0, 1e-9, -1e-9)
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0].width < pictures[2].width
    beyond = render(attention_map(torch.tensor([[[1.01, 0.0]]]), ["a"], ["a", "b"]))
    assert changed(pictures[0], beyond)[1] > 100  # below the cells


def test_a_line_separates_source_and_target() -> None:
    weights = torch.zeros(1, 5, 5)
    plain = attention_map(weights)
    parted = AttentionMap(0, "e", "l", plain.rows, plain.columns, weights, sources=2)
    first, second = (cell((1, 5, 5), 0, place, place) for place in (1, 2))
    picture = render(parted)
    for place in [(second[0], first[1] + 9), (second[0], second[1] + 9)]:
        assert picture.getpixel(place) == (0x30, 0x34, 0x3B)
        assert picture.getpixel((place[1] - first[1] + first[0], second[1])) == (0x30, 0x34, 0x3B)
        assert render(plain).getpixel(place) != (0x30, 0x34, 0x3B)
    assert picture.width > render(plain).width  # the legend says what it is


def test_a_note_is_below_the_cells() -> None:
    weights = torch.eye(5).unsqueeze(0)
    plain = attention_map(weights)
    noted = replace(plain, note="teacher-forced: the targets are given")
    parted = replace(noted, sources=2)
    assert render(plain).width < render(noted).width < render(parted).width
    assert render(plain).height == render(noted).height


@pytest.mark.parametrize("shape", [(1, 3, 4), (1, 30, 3000)])
def test_weights_that_are_not_finite_are_magenta(shape: tuple[int, int, int]) -> None:
    weights = torch.zeros(shape)
    for weight in (torch.nan, torch.inf, -torch.inf):
        weights[0, 1, 2] = weight
        picture = render(attention_map(weights))
        assert colour(picture, cell(shape, 0, 1, 2)) == (0xC8, 0, 0xC8)
    plain = render(attention_map(torch.zeros(1, 3, 4)))
    weights = torch.zeros(1, 3, 4)
    weights[0, 1, 2] = torch.nan
    assert render(attention_map(weights)).width > plain.width  # the legend says what they are


def test_the_legend_names_only_what_is_drawn() -> None:
    """A batch has hidden pairs while an example has none; weights of hidden pairs are not drawn."""
    plain = attention_map(torch.zeros(1, 3, 4))
    weights, hidden = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4, dtype=torch.bool)
    assert render(replace(plain, hidden=hidden)).width == render(plain).width
    hidden[0, 0, 1] = True
    hatched = render(replace(plain, hidden=hidden))
    assert hatched.width > render(plain).width
    weights[0, 0, 1] = torch.nan
    assert render(replace(plain, weights=weights, hidden=hidden)).width == hatched.width


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 30, 3000)])
def test_hidden_pairs_are_hatched(shape: tuple[int, int, int]) -> None:
    weights, hidden = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    hidden[0, :, -1], hidden[0, 0, 1:] = True, True
    plain = attention_map(weights)
    picture = render(replace(plain, hidden=hidden))
    assert picture.height == render(plain).height
    left, top, _, _ = cell(shape, 0, 0, shape[2] // 2)
    row = {picture.getpixel((left + offset, top + 2)) for offset in range(12)}
    assert row == {(0xFF, 0xFF, 0xFF), (0xD3, 0xD7, 0xDE)}
    left, top, _, _ = cell(shape, 0, shape[1] - 1, 0)
    row = {picture.getpixel((left + offset, top + 2)) for offset in range(12)}
    assert row == {(0xFF, 0xFF, 0xFF)}


@pytest.mark.parametrize("length", [64, 128, 300])
def test_names_of_alternating_kinds_are_both_shown(length: int) -> None:
    """Keys and values alternate, for example."""
    weights, none = torch.zeros(1, length, length), [""] * length
    plain = render(attention_map(weights, none, none))
    for kind in (0, 1):
        some = ["|" if place % 2 == kind else "" for place in range(length)]
        assert changed(plain, render(attention_map(weights, none, some))) is not None


def test_rows_are_named_at_the_left_and_columns_above() -> None:
    weights = torch.zeros(1, 3, 3)
    plain = render(attention_map(weights, ["A", "A", "A"], ["A", "A", "A"]))
    row = changed(plain, render(attention_map(weights, ["A", "A", "V"], ["A", "A", "A"])))
    column = changed(plain, render(attention_map(weights, ["A", "A", "A"], ["A", "V", "A"])))
    # The names here are narrower than cell()'s: only the cells' size and order are comparable.
    middle = cell((1, 3, 3), 0, 1, 1)
    size = middle[2] - middle[0]
    assert row[2] <= column[0]
    assert column[3] <= row[1] - size
    assert row[3] - row[1] <= size
    assert column[2] - column[0] <= size


def test_a_single_head_has_no_title() -> None:
    one, two = (render(attention_map(torch.zeros(heads, 3, 3))) for heads in (1, 2))
    assert one.height < two.height
    assert one.width < two.width


@pytest.mark.parametrize(
    "shape",
    [
        (4, 128, 128),
        (8, 40, 300),
        (1, 5, 3000),
        (2, 3000, 5),
        (16, 1200, 1200),
    ],
)
@pytest.mark.parametrize(("weight", "shade"), [(1.0, (0x00, 0x2A, 0x66)), (-1.0, (0x5A, 0x0B, 1))])
def test_long_sequences_stay_within_1600_pixels(
    shape: tuple[int, int, int], weight: float, shade: tuple[int, ...]
) -> None:
    weights = torch.zeros(shape)
    weights[0, 0, 0] = -0.5  # so that both have a scale for weights below 0
    before = render(attention_map(weights))
    weights[-1, -1, -1] = weight
    assert before.width <= 1600
    # However small the cells, no weight gets lost or pale, and it is where the last must be.
    after = render(attention_map(weights))
    box = changed(before, after)
    assert colour(after, box) == shade
    if shape[2] > 5:  # else the scale below is wider
        assert before.width - box[0] < 150
    assert before.height - box[1] < 150


def test_any_text_can_be_a_name() -> None:
    names = ["", " ", "\n", "two\nlines", "\ud800", "é", "字", "\u202e", "\x00", "x" * 500]
    picture = render(attention_map(torch.zeros(8, 10, 10), names, names))
    assert picture.width <= 1600


def test_a_name_stays_on_its_line() -> None:
    broken, whole = (
        render(attention_map(torch.zeros(1, 1, 1), [name])) for name in ("two\nlines", "two lines")
    )
    assert broken == whole


def test_long_names_are_shortened() -> None:
    def named(name: str) -> Image.Image:
        return render(attention_map(torch.zeros(1, 1, 1), [name]))

    assert named("x" * 500).size == named("x" * 11).size
    assert named("x" * 11).width < named("x" * 9).width * 1.2
    changed(named("x" * 11), named("x" * 10))


@pytest.mark.parametrize(
    "shape", [(3, 2), (1, 2, 3), (1, 3, 3), (1, 2, 2), (1, 1, 3, 2), (0, 3, 2)]
)
def test_weights_must_match_the_names(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights must be \(heads, 3 rows, 2 columns\), got \("):
        AttentionMap(0, "e", "l", ["a", "b", "c"], ["x", "y"], torch.zeros(shape))


def test_a_map_without_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        AttentionMap(0, "e", "l", [], ["x"], torch.zeros(1, 0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_levels_are_the_nearest_root(dtype: torch.dtype) -> None:
    weights = torch.tensor([0.0, 0.01, 0.0625, 0.25, 1.0, 1.01, -0.25, -7.0], dtype=dtype)
    assert levels(weights).tolist() == [0, 11, 27, 54, 109, 109, -54, -109]


@pytest.mark.parametrize(
    ("stops", "direction"),
    [(WHITE_TO_BLUE, -1), (WHITE_TO_RED, -1), (NIGHT_TO_BLUE, 1), (NIGHT_TO_RED, 1)],
)
def test_lightness_changes_in_even_steps(stops: tuple[str, ...], direction: int) -> None:
    colours = torch.frombuffer(bytearray(interpolate(stops)), dtype=torch.uint8).reshape(256, 3)
    steps = direction * oklab_lightness(colours.double() / 255).diff()
    assert (steps >= 0).all()
    # Over stretches long enough for rounding to whole RGB levels not to matter.
    stretches = steps[:240].reshape(8, 30).sum(dim=1)
    assert stretches.max() / stretches.min() < 1.1


def oklab_lightness(rgb: Tensor) -> Tensor:
    """Perceived lightness 0 to 1 of sRGB colours (Ottosson 2020)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = torch.tensor(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ],
        dtype=rgb.dtype,
    )
    weights = torch.tensor([0.2104542553, 0.7936177850, -0.0040720468], dtype=rgb.dtype)
    return (linear @ to_lms.T) ** (1 / 3) @ weights


def test_drawing_is_faster_than_saving() -> None:
    """Drawing during training must not slow it down."""
    some = attention_map(torch.rand(8, 10, 10))
    picture = render(some)
    assert fastest(lambda: render(some)) < fastest(lambda: picture.save(io.BytesIO(), "png"))


def fastest(action: Callable[[], object]) -> float:
    def seconds() -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    return min(seconds() for _ in range(5))
