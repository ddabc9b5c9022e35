"""The viewer: one HTML page to browse all attention maps of a run."""

import base64
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.colormaps import (
    NIGHT_TO_BLUE,
    NIGHT_TO_RED,
    WHITE_TO_BLUE,
    WHITE_TO_RED,
    interpolate,
)

if TYPE_CHECKING:
    from jinja2 import Template


def write_viewer(maps: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Write one self-contained page to browse maps by example, layer and training step.

    The page needs no network. The file is replaced atomically.

    Args:
        maps: from :func:`encode_map`, in any order; examples and layers are listed in the order in
            which they first occur.
        path: the HTML file.
        title: the page's title.

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
    write_atomically(path, page, durable=False)


@functools.cache
def template() -> "Template":
    """The page's template."""
    import jinja2  # only where it is used: rendering a map must not wait for it

    environment = jinja2.Environment(
        autoescape=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(Path(__file__).with_name("viewer.html.j2").read_text("utf-8"))


def encode_map(map: AttentionMap) -> dict[str, Any]:
    """A map as a dict for JSON, with its weights (H, L, S) in base64, one byte for each weight.

    A byte b encodes the weight ``limit · r · |r|``, where r = (b - zero) / (255 - zero). Encoding
    the root gives small weights more precision: the error is at most 1/255 for weights from 0 to 1,
    and 2/255 in a map that has weights below 0.
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
    return _base64(interpolate(stops))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
