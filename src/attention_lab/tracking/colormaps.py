"""Colour maps of attention weights: blue above 0 and red below 0, for light and for dark pages.

The steps of each map are even in Oklab lightness (Ottosson 2020), so that equal differences between
the roots of two weights look equal, also in greyscale and to colour-blind readers.
"""

from functools import cache

from PIL import ImageColor

#: Weights from 0 to 1 on white.
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
#: Weights from 0 to -1 on white.
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
#: Weights from 0 to 1 on a dark page: the lighter, the greater the weight.
NIGHT_TO_BLUE = (
    "#1b1e24",
    "#223450",
    "#2c4b79",
    "#3c649f",
    "#527fc1",
    "#6e9adc",
    "#8fb7f1",
    "#b6d3fe",
    "#e2f0ff",
)
#: Weights from 0 to -1 on a dark page.
NIGHT_TO_RED = (
    "#1b1e24",
    "#4c2821",
    "#72372c",
    "#964b3c",
    "#b86352",
    "#d47e6e",
    "#eb9f8f",
    "#fac1b6",
    "#ffe9e4",
)

#: Weights that are NaN or infinite, on white.
NOT_FINITE = "#c800c8"
#: What hatched and magenta cells are, for legends.
HATCHED, MAGENTA = "hatched: hidden by the mask", "magenta: NaN or infinite"


@cache
def interpolate(stops: tuple[str, ...]) -> bytes:
    """256 RGB colours (768 bytes), interpolated linearly between evenly spaced ``stops``."""
    colours = [ImageColor.getrgb(stop) for stop in stops]
    table = bytearray()
    for level in range(256):
        position = level / 255 * (len(colours) - 1)
        before = min(int(position), len(colours) - 2)
        for low, high in zip(colours[before], colours[before + 1], strict=True):
            table.append(round(low + (high - low) * (position - before)))
    return bytes(table)


def red_to_blue() -> bytes:
    """The 511 RGB colours of weights from -1 to 1 on white: red below 0, blue above."""
    red, blue = interpolate(WHITE_TO_RED), interpolate(WHITE_TO_BLUE)
    return b"".join(red[start : start + 3] for start in range(765, -1, -3)) + blue[3:]
