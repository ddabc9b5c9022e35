"""One HTML page to look through all attention maps of a run."""

import base64
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attention_lab.tracking.attention_map import WHITE_TO_BLUE, WHITE_TO_RED, AttentionMap, ramp

if TYPE_CHECKING:
    from jinja2 import Template

#: The same hue on dark paper: the lighter, the greater the weight.
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
#: Likewise for weights below 0.
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


def write_viewer(maps: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Write one self-contained page that shows any example and layer as training goes on.

    The page needs no network. The file appears whole or not at all.

    Args:
        maps: as :func:`encoded`, in any order; examples and layers are offered in the order they
            first occur.
        path: the HTML file.
        title: of the page.

    Raises:
        ValueError: if there are no maps.
    """
    if not maps:
        raise ValueError("there must be at least one attention map")
    page = template().render(
        title=title,
        data={
            "ramps": {
                "light": {"above": _colours(WHITE_TO_BLUE), "below": _colours(WHITE_TO_RED)},
                "dark": {"above": _colours(NIGHT_TO_BLUE), "below": _colours(NIGHT_TO_RED)},
            },
            "maps": list(maps),
        },
    )
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(page, "utf-8")
    os.replace(unfinished, path)


@functools.cache
def template() -> "Template":
    """The page without its maps."""
    import jinja2  # only where it is used: whoever draws a map should not wait for it

    environment = jinja2.Environment(
        autoescape=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(Path(__file__).with_name("viewer.html.j2").read_text("utf-8"))


def encoded(map: AttentionMap) -> dict[str, Any]:
    """A map as JSON. Of its weights (H, L, S) there is base64 of one byte each.

    The byte is for the root, so that of a small weight it knows more digits: what is shown of
    weights from 0 to 1 is within 1/255 of the truth, and where a map has any below 0, within 2/255.
    A byte b stands for ``limit · r · |r|``, where r = (b - zero) / (255 - zero).
    """
    weights = map.weights.detach().float().nan_to_num()
    limit = max(1.0, float(weights.abs().max()))
    zero = 128 if weights.min() < 0 else 0
    roots = weights.sign() * (weights.abs() / limit).sqrt()
    return {
        "step": map.step,
        "example": map.example,
        "layer": map.layer,
        "rows": map.rows,
        "columns": map.columns,
        "sources": map.sources,
        "note": map.note,
        "heads": len(map.weights),
        "limit": limit,
        "zero": zero,
        "weights": _base64(_bytes(zero + roots * (255 - zero))),
    }


def _bytes(levels: Tensor) -> bytes:
    return levels.round().to(torch.uint8).numpy().tobytes()


def _colours(stops: tuple[str, ...]) -> str:
    return _base64(ramp(stops))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
