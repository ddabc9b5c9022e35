"""An attention map as an image: one panel of cells for each head, with names and a colour scale."""

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.colormaps import HATCHED, MAGENTA, NOT_FINITE, red_to_blue
from attention_lab.tracking.fonts import SIZE as _FONT
from attention_lab.tracking.fonts import font_for

# Sizes in pixels. The image is meant to be shown at half its size.
_MAX_WIDTH = 1600  # of the image
_MAX_HEIGHT = 960  # of one head's cells
_MAX_CELL = 52
_LINED_CELL = 16  # smaller cells have no grid lines
_DESCENT = 5  # below the baseline of letters such as g
_NAME = 24  # minimum distance between two names
_TITLE = 34
_PAD = 12  # between names and cells
_OVERHANG = 12  # by which the first and last name may extend beyond the cells
_GAP = 40  # between heads
_MARGIN = 28
_BAR = 300  # length of the colour scale from 0 to 1
_BAR_HEIGHT = 16
_BOUNDARY = 3  # thickness of the line between source and target
_HATCH_DISTANCE, _HATCH_WIDTH = 12, 3  # of the lines over hidden pairs

# Images have a palette of 256 colours: drawing and saving them takes a third of the time of RGB.
# Its first colours are those of weights from -1 to 1; 0 is in the middle.
_LEVELS = 109
_NOT_FINITE, _LINE, _FRAME, _HATCH = range(2 * _LEVELS + 1, 2 * _LEVELS + 5)
# Its last ones lead evenly from ink to paper, for the edges of letters.
_INK, _FAINT_INK, _PAPER = 223, 235, 255


def levels(weights: Tensor) -> Tensor:
    """Colour levels of weights: sign(w) · √|w| · 109, as int16 of the same shape.

    In a long sequence each key has a small weight; its root still differs visibly from 0. Some
    mechanisms have weights below 0 (differential, Nyström) or above 1: these are clamped to -1
    and 1.
    """
    weights = weights.detach().float().nan_to_num().clamp(-1, 1)
    return (weights.sign() * weights.abs().sqrt() * _LEVELS).round().to(torch.int16)


def render(map: AttentionMap) -> Image.Image:
    """Render all heads of a map side by side: the darker a cell, the greater its weight.

    Rows are queries and columns are keys. White is always 0, the darkest blue 1 and the darkest red
    -1, so images can be compared. Pairs that the mask hides are hatched, and weights that are NaN
    or infinite are magenta. Long sequences get smaller cells and fewer names; where cells would be
    smaller than a pixel, neighbours share one pixel, which shows the weight farthest from 0. The
    colour scale, the map's note and a legend are below the panels.

    Returns:
        An image with a palette, at most 1600 pixels wide, meant to be shown at half that size.
    """
    heads = len(map.weights)
    per_line = _panels_per_line(heads, len(map.columns))
    width = (_MAX_WIDTH - 2 * _MARGIN + _GAP) // per_line - _GAP
    panel = _panel(tuple(map.rows), tuple(map.columns), width, heads > 1, map.sources)
    legend = _legend_of(map)
    step_x, step_y = panel.size[0] + _GAP, panel.size[1] + _GAP
    below = _MARGIN + step_y * math.ceil(heads / per_line)
    width = 2 * _MARGIN + max(step_x * per_line - _GAP, legend.width)
    image = Image.new("L", (width, below + legend.height + _MARGIN), _PAPER)
    for head, weights in enumerate(map.weights):
        corner = _MARGIN + head % per_line * step_x, _MARGIN + head // per_line * step_y
        hidden = None if map.hidden is None else map.hidden[head]
        panel.draw(image, corner, f"head {head}", weights, hidden)
    image.paste(legend, (_MARGIN, below))
    image.putpalette(_palette())
    return image


@cache
def _palette() -> bytes:
    """The 256 RGB colours of an image (768 bytes)."""
    weights = np.frombuffer(red_to_blue(), np.uint8).reshape(511, 3)
    shown = weights[np.linspace(0, 510, 2 * _LEVELS + 1).round().astype(int)]
    others = (NOT_FINITE, "#e6e9ee", "#b9bfc9", "#d3d7de")
    inks = np.array([ImageColor.getrgb(ink) for ink in ("#30343b", "#7b818c", "#ffffff")])
    places = np.arange(_INK, _PAPER + 1)
    greys = [np.interp(places, (_INK, _FAINT_INK, _PAPER), channel) for channel in inks.T]
    parts = (shown, *map(ImageColor.getrgb, others), np.stack(greys, 1).round())
    return np.vstack(parts).astype(np.uint8).tobytes()


class _Panel:
    """The layout of one head's panel, which all heads of a map share.

    Args:
        rows: names of the L rows.
        columns: names of the S columns.
        max_width: of the panel, in pixels.
        titled: whether the panel has a title.
        sources: number of rows and columns before the line between source and target.
    """

    def __init__(
        self,
        rows: Sequence[str],
        columns: Sequence[str],
        max_width: int,
        titled: bool,
        sources: int | None,
    ) -> None:
        rows, columns = _shorten(rows), _shorten(columns)
        left = _longest(rows) + _PAD
        self.width, self.height = _sides(len(columns), len(rows), max_width - left - 1)
        header = _draw_header(columns, self.width)
        self.titled, self.sources = titled, sources
        top = titled * _TITLE + header.height + _PAD
        self.left, self.top = left, top
        self.size = left + self.width + 1, top + self.height + 1
        # Drawing names is the slowest part, so they are drawn once and copied.
        width, height = self.size
        self.names = Image.new("L", (width + _OVERHANG, height + _OVERHANG), _PAPER)
        self.names.paste(header, (left - _OVERHANG, titled * _TITLE))
        pen = ImageDraw.Draw(self.names)
        for y, name in _name_positions(rows, self.height):
            pen.text((left - _PAD, top + y), name, _INK, font_for(name), anchor="rm")

    def draw(
        self,
        image: Image.Image,
        corner: tuple[int, int],
        title: str,
        weights: Tensor,
        hidden: Tensor | None,
    ) -> None:
        """Draw one head's weights and hidden pairs (L, S), with its corner at ``corner``."""
        image.paste(self.names, corner)
        left, top = corner[0] + self.left, corner[1] + self.top
        cells = _draw_cells(weights, self.width, self.height)
        if hidden is not None:
            cells.paste(_hatching(cells.size), mask=_draw_hidden(hidden, cells.size))
        image.paste(cells, (left, top))
        pen = ImageDraw.Draw(image)
        if self.titled:
            pen.text((left, corner[1]), title, _FAINT_INK, font_for(title), anchor="lt")
        self._draw_lines(pen, left, top, *weights.shape)

    def _draw_lines(
        self, pen: ImageDraw.ImageDraw, left: int, top: int, rows: int, columns: int
    ) -> None:
        """Draw the frame, the lines between cells, and those between source and target."""
        right, bottom = left + self.width, top + self.height
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


#: The same examples are drawn at every validation.
_panel = lru_cache(8)(_Panel)


def _panels_per_line(heads: int, columns: int) -> int:
    """The number of panels side by side, chosen so that all lines are about equally full."""
    most = 2 if heads <= 4 and columns > 48 else 4
    return math.ceil(heads / math.ceil(heads / most))


def _sides(columns: int, rows: int, max_width: int) -> tuple[int, int]:
    """Width and height of all cells together.

    Cells are square unless names would then not fit along the shorter side.
    """
    fitting = max_width / columns, _MAX_HEIGHT / rows
    square = min(*fitting, _MAX_CELL)
    width, height = (min(fit, max(square, _NAME)) for fit in fitting)
    return _side(columns, width), _side(rows, height)


def _side(count: int, cell: float) -> int:
    """The length of ``count`` cells in whole pixels; cells of a pixel or more have equal sizes."""
    return count * int(cell) if cell >= 1 else int(count * cell)


def _draw_cells(weights: Tensor, width: int, height: int) -> Image.Image:
    rows, columns = weights.shape
    if height < rows or width < columns:
        weights = _farthest_from_zero(weights, min(height, rows), min(width, columns))
    indices = (levels(weights) + _LEVELS).masked_fill(~weights.isfinite(), _NOT_FINITE)
    cells = Image.fromarray(indices.to(torch.uint8).numpy())
    return cells.resize((width, height), Image.Resampling.NEAREST)


def _farthest_from_zero(weights: Tensor, rows: int, columns: int) -> Tensor:
    """Weights (L, S) pooled to (rows, columns): of each pooled area the weight farthest from 0."""
    both = torch.stack([weights, -weights]).float()
    above, below = adaptive_max_pool2d(both, (rows, columns))
    return torch.where(above >= below, above, -below)


def _draw_hidden(hidden: Tensor, size: tuple[int, int]) -> Image.Image:
    """A mask of the hidden pairs; where cells share a pixel, all of them must be hidden."""
    width, height = size
    visible = ~hidden
    if height < len(hidden) or width < hidden.shape[1]:
        part = min(height, len(hidden)), min(width, hidden.shape[1])
        visible = adaptive_max_pool2d(visible.float().unsqueeze(0), part)[0] > 0
    drawn = Image.fromarray((255 * ~visible).to(torch.uint8).numpy()).convert("1")
    return drawn.resize(size, Image.Resampling.NEAREST)


@lru_cache(8)
def _hatching(size: tuple[int, int]) -> Image.Image:
    """Diagonal lines on white."""
    across, down = torch.arange(size[0]), torch.arange(size[1]).unsqueeze(1)
    is_line = (across + down) % _HATCH_DISTANCE < _HATCH_WIDTH
    return Image.fromarray(torch.where(is_line, _HATCH, _PAPER).to(torch.uint8).numpy())


def _legend_of(map: AttentionMap) -> Image.Image:
    """The colour scale of a map, its note, and a legend of lines, hatched and magenta cells."""
    is_finite = map.weights.isfinite()
    weights = map.weights.masked_fill(~is_finite, 0.0)
    least, most = weights.min().item(), weights.max().item()
    hidden = torch.zeros_like(is_finite) if map.hidden is None else map.hidden
    boundary = "" if map.sources is None else "line: between source and target"
    drawn = [HATCHED * bool(hidden.any()), MAGENTA * bool((~is_finite & ~hidden).any())]
    lines = ("; ".join(filter(None, parts)) for parts in ([map.note, boundary], drawn))
    return _legend(least < 0, least < -1, most > 1, *lines)


@cache
def _legend(
    below_0: bool, below_minus_1: bool, above_1: bool, note: str, below_note: str
) -> Image.Image:
    """The colour scale over the range of the weights, and a note of two lines."""
    least = -1 if below_0 else 0
    names = [(0.0, "0"), (0.1, "0.1"), (0.5, "0.5"), (1.0, "1")]
    marks = [(-weight, f"−{name}") for weight, name in names[:0:-1] if least] + names
    if above_1:
        marks[-1] = (1.0, "≥1")
    if below_minus_1:
        marks[0] = (-1.0, "≤−1")
    title = "weight"
    left = math.ceil(font_for(title).getlength(title)) + 2 * _PAD
    bar, end = (1 - least) * _BAR, left + (1 - least) * _BAR + 2 * _PAD
    size = end + _longest([note, below_note]), _BAR_HEIGHT + _FONT + 2 * _DESCENT
    legend = Image.new("L", size, _PAPER)
    pen = ImageDraw.Draw(legend)
    pen.text((0, _BAR_HEIGHT / 2), title, _FAINT_INK, font_for(title), anchor="lm")
    for y, line in ((_BAR_HEIGHT / 2, note), (_BAR_HEIGHT / 2 + _FONT + _DESCENT, below_note)):
        pen.text((end, y), line, _FAINT_INK, font_for(line), anchor="lm")
    roots = torch.linspace(least, 1, bar).unsqueeze(0)
    legend.paste(_draw_cells(roots * roots.abs(), bar, _BAR_HEIGHT), (left, 0))
    pen.rectangle((left - 1, 0, left + bar, _BAR_HEIGHT), outline=_FRAME)
    for weight, name in marks:
        x = left + (math.copysign(math.sqrt(abs(weight)), weight) - least) * _BAR
        pen.text((x, _BAR_HEIGHT + _DESCENT), name, _FAINT_INK, font_for(name), anchor="mt")
    return legend


def _draw_header(names: list[str], width: int) -> Image.Image:
    """The columns' names: horizontal where they fit, otherwise rotated to read upwards.

    The header extends beyond the cells by the overhang on either side.
    """
    places = [(_OVERHANG + place, name) for place, name in _name_positions(names, width)]
    longest, breadth = _longest(names), width + 2 * _OVERHANG
    if longest + 4 <= width / len(places):
        header = Image.new("L", (breadth, _FONT + _DESCENT), _PAPER)
        pen = ImageDraw.Draw(header)
        for x, name in places:
            pen.text((x, _FONT - 2), name, _INK, font_for(name), anchor="ms")
        return header
    header = Image.new("L", (longest, breadth), _PAPER)
    pen = ImageDraw.Draw(header)
    for y, name in places:
        pen.text((0, y), name, _INK, font_for(name), anchor="lm")
    return header.transpose(Image.Transpose.ROTATE_90)


def _name_positions(names: list[str], side: int) -> Iterator[tuple[float, str]]:
    """The positions of the names along a side, at the centres of their cells.

    Where names would be too close, only every 3rd, 5th, … is shown. An even interval would show
    only the keys of a sequence in which keys and values alternate.
    """
    cell = side / len(names)
    every = math.ceil(_NAME / cell) | 1
    for index in range(0, len(names), every):
        yield (index + 0.5) * cell, names[index]


def _shorten(names: Sequence[str]) -> list[str]:
    """Names of at most 10 characters, with spaces in place of unprintable characters."""
    visible = ["".join(c if c.isprintable() else " " for c in name) for name in names]
    return [name if len(name) <= 10 else name[:9] + "…" for name in visible]


def _longest(names: list[str]) -> int:
    return math.ceil(max(font_for(name).getlength(name) for name in names))
