"""Fonts for the names in attention maps, by the characters that they have to show."""

import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont
from PIL.ImageFont import ImageFont as BitmapFont

from attention_lab.external_programs import run_program

#: In pixels.
SIZE = 20
#: Characters of one script follow each other: 64 to a block.
_BLOCK_BITS = 6
#: A character that no font has: it is drawn as the box for unknown characters.
_IN_NO_FONT = "\uffff"


def font_for(text: str) -> FreeTypeFont | BitmapFont:
    """Matplotlib's font, or an installed one if it lacks a character of the text.

    A character that no installed font has is drawn as a box; the first time, a warning says so.
    """
    usual = default_font()
    missing = next((character for character in text if not _has(character)), None)
    return (_installed_font(ord(missing) >> _BLOCK_BITS) if missing else None) or usual


@cache
def default_font() -> FreeTypeFont | BitmapFont:
    """Matplotlib's font, which covers many scripts; without it Pillow's, which covers English."""
    matplotlib = find_spec("matplotlib")  # not imported, as that takes a second
    if matplotlib and matplotlib.origin:
        file = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(file, SIZE)
    return ImageFont.load_default(SIZE)


@cache
def _has(character: str) -> bool:
    """Whether the default font has a character."""
    font = default_font()
    if character.isascii() or character.isspace() or not isinstance(font, FreeTypeFont):
        return True
    return bytes(font.getmask(character)) != bytes(font.getmask(_IN_NO_FONT))


@cache
def _installed_font(block: int) -> FreeTypeFont | None:
    """An installed font for a block of characters, found with fontconfig; None if there is none.

    A font has most characters of a block or none of them, so one of each block is looked up.
    """
    start = block << _BLOCK_BITS
    characters = [chr(number) for number in range(start, start + (1 << _BLOCK_BITS))]
    character = next(filter(str.isprintable, characters), characters[0])
    found = run_program("fc-list", f":charset={ord(character):x}", "file", timeout=10)
    for line in sorted(found.stdout.splitlines()):
        try:
            return ImageFont.truetype(line.strip().rstrip(": "), SIZE)
        except OSError:  # a font of bitmaps in other sizes, such as one of coloured emoji
            continue
    _warn_of_boxes(is_searched=found.returncode is not None)
    return None


@cache
def _warn_of_boxes(is_searched: bool) -> None:
    reason = (
        "no installed font has; install one, such as Noto Sans CJK"
        if is_searched
        else "the default font lacks: fontconfig, which finds other fonts, is not installed"
    )
    warnings.warn(f"attention maps show boxes for characters that {reason}", stacklevel=2)
