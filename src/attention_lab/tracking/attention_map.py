"""Attention maps: what one layer looked at, and its picture."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont
from PIL.ImageFont import ImageFont as BitmapFont
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

#: The colours of weights 0 to 1: one hue in even steps of Oklab lightness (Ottosson 2020), so that
#: equal differences of their roots look equal, in grey print and to the colour-blind too.
WHITE_TO_BLUE = (
    "#ffffff",
    "#d3e3fc",
    "#aac8f3",
    "#85ace5",
    "#6390d2",
    "#4575bc",
    "#2a5ba2",
    "#114285",
    "#002a66",
)

#: The colours of weights 0 to -1, in the same steps of lightness.
WHITE_TO_RED = (
    "#ffffff",
    "#fad9d2",
    "#efb6aa",
    "#df9485",
    "#c97463",
    "#b15645",
    "#963b2b",
    "#792213",
    "#5a0b01",
)

# Sizes in pixels, at twice the density the picture is meant to be seen with.
_MAX_WIDTH = 1600  # of the picture
_MAX_HEIGHT = 960  # of one head's cells
_MAX_CELL = 52
_LINED_CELL = 16  # smaller cells have no lines between them
_FONT = 20
_DESCENT = 5  # of letters such as g
_NAME = 24  # least distance between two names
_TITLE = 34
_PAD = 12  # between names and cells
_OVERHANG = 12  # how far the first and last name may stand out beyond the cells
_GAP = 40  # between heads
_MARGIN = 28
_BAR = 300  # the scale, from 0 to 1
_BAR_HEIGHT = 16
_BOUNDARY = 3  # thickness of the line between source and target

_PAPER = "#ffffff"
_INK = "#30343b"
_FAINT_INK = "#7b818c"
_LINE = "#e6e9ee"
_FRAME = "#b9bfc9"


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The attention weights of one layer for one example at one training step.

    Args:
        step: training step.
        example: the example's name.
        layer: the layer's name.
        rows: names of the L query positions.
        columns: names of the S key positions.
        weights: (H, L, S) float, on the CPU.
        sources: of rows and columns that run over source and target, how many are the source's.
        note: how the weights were computed, for readers of the map.

    Raises:
        ValueError: if the weights are empty or do not match the names.
    """

    step: int
    example: str
    layer: str
    rows: list[str]
    columns: list[str]
    weights: Tensor
    sources: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        shape, named = tuple(self.weights.shape), (len(self.rows), len(self.columns))
        if shape[1:] != named or 0 in shape:
            raise ValueError(
                f"weights must be (heads, {named[0]} rows, {named[1]} columns), got {shape}"
            )


def levels(weights: Tensor) -> Tensor:
    """The roots of weights, times 255 and with the weights' signs: int16 of the same shape.

    Of a long sequence, a key's share is small; its root can still be told from 0. Some mechanisms
    know weights below 0 (differential, Nyström) or above 1: what is beyond -1 and 1 shows as these.
    """
    weights = weights.detach().float().nan_to_num().clamp(-1, 1)
    return (weights.sign() * weights.abs().sqrt() * 255).round().to(torch.int16)


@cache
def ramp(stops: tuple[str, ...]) -> bytes:
    """256 RGB colours (768 bytes) that run evenly through ``stops``."""
    colours = [ImageColor.getrgb(stop) for stop in stops]
    table = bytearray()
    for level in range(256):
        position = level / 255 * (len(colours) - 1)
        before = min(int(position), len(colours) - 2)
        for low, high in zip(colours[before], colours[before + 1], strict=True):
            table.append(round(low + (high - low) * (position - before)))
    return bytes(table)


def draw(map: AttentionMap) -> Image.Image:
    """Draw all heads of a map side by side: the darker a cell, the greater its weight.

    Rows are queries and columns are keys. White is always 0, the darkest blue 1 and the darkest red
    -1, so pictures can be compared. Long sequences get smaller cells and fewer names; where even
    single pixels are too many, neighbours share one that shows what is farthest from 0. Below
    stands the scale, the map's note, and what the line between source and target is.

    Returns:
        An RGB picture at most 1600 pixels wide, to be seen at half that size.
    """
    heads = len(map.weights)
    across = _panels_across(heads, len(map.columns))
    room = (_MAX_WIDTH - 2 * _MARGIN + _GAP) // across - _GAP
    panel = _Panel(map.rows, map.columns, room, heads > 1, map.sources)
    least, most = map.weights.min().item(), map.weights.max().item()
    boundary = "" if map.sources is None else "line: between source and target"
    note = "; ".join(filter(None, (map.note, boundary)))
    legend = _legend(least < 0, least < -1, most > 1, note)
    step_x, step_y = panel.size[0] + _GAP, panel.size[1] + _GAP
    below = _MARGIN + step_y * math.ceil(heads / across)
    width = 2 * _MARGIN + max(step_x * across - _GAP, legend.width)
    picture = Image.new("RGB", (width, below + legend.height + _MARGIN), _PAPER)
    for head, weights in enumerate(map.weights):
        corner = _MARGIN + head % across * step_x, _MARGIN + head // across * step_y
        panel.draw(picture, corner, f"head {head + 1}", weights)
    picture.paste(legend, (_MARGIN, below))
    return picture


class _Panel:
    """One head's part of a picture. All but its weights and title is the same for every head.

    Args:
        rows: names of the L rows.
        columns: names of the S columns.
        room: greatest width.
        titled: whether a title stands above.
        sources: how many rows and columns there are before the line between source and target.
    """

    def __init__(
        self, rows: list[str], columns: list[str], room: int, titled: bool, sources: int | None
    ) -> None:
        rows, columns = _shortened(rows), _shortened(columns)
        left = _longest(rows) + _PAD
        self.width, self.height = _sides(len(columns), len(rows), room - left - 1)
        header = _draw_header(columns, self.width)
        self.titled, self.sources = titled, sources
        top = titled * _TITLE + header.height + _PAD
        self.left, self.top = left, top
        self.size = left + self.width + 1, top + self.height + 1
        # Names take longest to draw, so they are drawn once and copied.
        width, height = self.size
        self.names = Image.new("RGB", (width + _OVERHANG, height + _OVERHANG), _PAPER)
        self.names.paste(header, (left - _OVERHANG, titled * _TITLE))
        pen = ImageDraw.Draw(self.names)
        for y, name in _places(rows, self.height):
            pen.text((left - _PAD, top + y), name, _INK, _font(), anchor="rm")

    def draw(
        self, picture: Image.Image, corner: tuple[int, int], title: str, weights: Tensor
    ) -> None:
        """Draw one head's weights (L, S) with the panel's upper left corner at ``corner``."""
        picture.paste(self.names, corner)
        left, top = corner[0] + self.left, corner[1] + self.top
        right, bottom = left + self.width, top + self.height
        picture.paste(_draw_cells(weights, self.width, self.height), (left, top))
        pen = ImageDraw.Draw(picture)
        if self.titled:
            pen.text((left, corner[1]), title, _FAINT_INK, _font(), anchor="lt")
        rows, columns = weights.shape
        if min(self.width / columns, self.height / rows) >= _LINED_CELL:
            for x in range(left, right, self.width // columns):
                pen.line((x, top, x, bottom), _LINE)
            for y in range(top, bottom, self.height // rows):
                pen.line((left, y, right, y), _LINE)
        if self.sources is not None:
            x = left + round(self.sources * self.width / columns)
            y = top + round(self.sources * self.height / rows)
            pen.line((x, top, x, bottom), _INK, _BOUNDARY)
            pen.line((left, y, right, y), _INK, _BOUNDARY)
        pen.rectangle((left - 1, top - 1, right, bottom), outline=_FRAME)


def _panels_across(heads: int, columns: int) -> int:
    """How many panels stand side by side, such that all lines of panels are about as full."""
    most = 2 if heads <= 4 and columns > 48 else 4
    return math.ceil(heads / math.ceil(heads / most))


def _sides(columns: int, rows: int, room: int) -> tuple[int, int]:
    """Width and height of all cells together.

    Cells are square unless that would leave no place for the names of a short side's cells.
    """
    fitting = room / columns, _MAX_HEIGHT / rows
    square = min(*fitting, _MAX_CELL)
    width, height = (min(fit, max(square, _NAME)) for fit in fitting)
    return _side(columns, width), _side(rows, height)


def _side(count: int, cell: float) -> int:
    """The length of ``count`` cells in whole pixels, all cells alike if they have at least one."""
    return count * int(cell) if cell >= 1 else int(count * cell)


def _draw_cells(weights: Tensor, width: int, height: int) -> Image.Image:
    rows, columns = weights.shape
    if height < rows or width < columns:
        weights = _farthest_from_zero(weights, min(height, rows), min(width, columns))
    cells = Image.fromarray(_colours()[levels(weights).long() + 255].numpy())
    return cells.resize((width, height), Image.Resampling.NEAREST)


def _farthest_from_zero(weights: Tensor, rows: int, columns: int) -> Tensor:
    """Weights (L, S) as (rows, columns), each the farthest from 0 of those that it stands for."""
    both = torch.stack([weights, -weights]).float()
    above, below = adaptive_max_pool2d(both, (rows, columns))
    return torch.where(above >= below, above, -below)


@cache
def _colours() -> Tensor:
    """The colours of the levels -255 to 255, (511, 3) uint8."""
    red, blue = (
        torch.frombuffer(bytearray(ramp(stops)), dtype=torch.uint8).reshape(256, 3)
        for stops in (WHITE_TO_RED, WHITE_TO_BLUE)
    )
    return torch.cat([red.flip(0), blue[1:]])


@cache
def _legend(below_0: bool, below_minus_1: bool, above_1: bool, note: str) -> Image.Image:
    """The scale as far as the weights need it, and a note."""
    least = -1 if below_0 else 0
    names = [(0.0, "0"), (0.01, "0.01"), (0.1, "0.1"), (0.5, "0.5"), (1.0, "1")]
    marks = [(-weight, f"−{name}") for weight, name in names[:1:-1] if least] + names
    if above_1:
        marks[-1] = (1.0, "≥1")
    if below_minus_1:
        marks[0] = (-1.0, "≤−1")
    title = "weight"
    left = math.ceil(_font().getlength(title)) + 2 * _PAD
    bar, end = (1 - least) * _BAR, left + (1 - least) * _BAR + 2 * _PAD
    size = end + math.ceil(_font().getlength(note)), _BAR_HEIGHT + _FONT + 2 * _DESCENT
    legend = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(legend)
    pen.text((0, _BAR_HEIGHT / 2), title, _FAINT_INK, _font(), anchor="lm")
    pen.text((end, _BAR_HEIGHT / 2), note, _FAINT_INK, _font(), anchor="lm")
    roots = torch.linspace(least, 1, bar).unsqueeze(0)
    legend.paste(_draw_cells(roots * roots.abs(), bar, _BAR_HEIGHT), (left, 0))
    pen.rectangle((left - 1, 0, left + bar, _BAR_HEIGHT), outline=_FRAME)
    for weight, name in marks:
        x = left + (math.copysign(math.sqrt(abs(weight)), weight) - least) * _BAR
        pen.text((x, _BAR_HEIGHT + _DESCENT), name, _FAINT_INK, _font(), anchor="mt")
    return legend


def _draw_header(names: list[str], width: int) -> Image.Image:
    """The columns' names: upright where they fit, else turned to read upwards.

    It is wider than the cells by the overhang on either side.
    """
    places = [(_OVERHANG + place, name) for place, name in _places(names, width)]
    longest, breadth = _longest(names), width + 2 * _OVERHANG
    if longest + 4 <= width / len(places):
        header = Image.new("RGB", (breadth, _FONT + _DESCENT), _PAPER)
        pen = ImageDraw.Draw(header)
        for x, name in places:
            pen.text((x, _FONT - 2), name, _INK, _font(), anchor="ms")
        return header
    header = Image.new("RGB", (longest, breadth), _PAPER)
    pen = ImageDraw.Draw(header)
    for y, name in places:
        pen.text((0, y), name, _INK, _font(), anchor="lm")
    return header.transpose(Image.Transpose.ROTATE_90)


def _places(names: list[str], side: int) -> Iterator[tuple[float, str]]:
    """Where along a side which names stand, each at its cell's middle: all, or every 3rd, 5th ….

    The first that leaves names far enough from each other is taken. Never every 2nd: of keys and
    values in turn it would name one kind only.
    """
    cell = side / len(names)
    every = math.ceil(_NAME / cell) | 1
    for index in range(0, len(names), every):
        yield (index + 0.5) * cell, names[index]


def _shortened(names: list[str]) -> list[str]:
    """Names of at most 10 characters, without any that have no shape."""
    visible = ["".join(c if c.isprintable() else " " for c in name) for name in names]
    return [name if len(name) <= 10 else name[:9] + "…" for name in visible]


def _longest(names: list[str]) -> int:
    return math.ceil(max(_font().getlength(name) for name in names))


@cache
def _font() -> FreeTypeFont | BitmapFont:
    """Matplotlib's font, which knows many scripts; without it Pillow's, which knows English."""
    matplotlib = find_spec("matplotlib")  # found and not imported, which would take a second
    if matplotlib and matplotlib.origin:
        file = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(file, _FONT)
    return ImageFont.load_default(_FONT)
