"""The attention maps of the compared groups, for the page."""

import base64
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from attention_lab.sweeps.comparison import Comparison


class Map(NamedTuple):
    """One attention map in the page."""

    #: The group's place in the comparison.
    row: int
    label: str
    seed: int | None
    step: int
    #: A data URI.
    image: str
    #: Whether many heads stand side by side in the picture.
    is_wide: bool


def attention_maps(comparison: Comparison) -> dict[str, dict[str, list[Map]]]:
    """The maps of the last validation, by example and layer: those of each group's first seed."""
    maps: dict[str, dict[str, list[Map]]] = {}
    for row, group in enumerate(comparison.groups):
        for run in sorted(group.finished, key=lambda run: run.seed or 0)[:1]:
            pictures = list(run.directory.glob("attention/step-*/*.png"))
            last = max(map(_step, pictures), default=0)
            for path in sorted(path for path in pictures if _step(path) == last):
                example, _, layer = path.stem.partition("-")
                example = unquote(example)
                among = maps.setdefault(example, {}).setdefault(layer, [])
                among.append(Map(row, group.label, run.seed, last, *_embedded(path)))
    return maps


def _embedded(picture: Path) -> tuple[str, bool]:
    """A PNG as a data URI, and whether it is wide."""
    data = picture.read_bytes()
    # A PNG starts with a signature of 8 bytes and a header chunk: length, "IHDR", width, height.
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return f"data:image/png;base64,{base64.b64encode(data).decode()}", width > 2.2 * height


def _step(picture: Path) -> int:
    digits = picture.parent.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0
