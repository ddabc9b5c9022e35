"""The viewer: one HTML page to browse all attention maps of a run, or of several."""

import base64
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.attention_summaries import LayerSummaries
from attention_lab.tracking.colormaps import (
    NIGHT_TO_BLUE,
    NIGHT_TO_RED,
    WHITE_TO_BLUE,
    WHITE_TO_RED,
    interpolate,
)

if TYPE_CHECKING:
    from jinja2 import Template

#: The most characters of encoded weights in a page of several steps; further steps are left out.
MAX_SIZE = 3_600_000
#: By layer and summary, the numbers of all heads in a page.
EncodedSummaries = dict[str, dict[str, list[float | None]]]
#: The codes of pairs that the mask hides, and of weights that are NaN or infinite.
HIDDEN, NOT_FINITE = 0, 1


def write_viewer(
    maps: Sequence[Mapping[str, Any]],
    path: Path,
    title: str,
    summaries: Mapping[int, EncodedSummaries] | None = None,
) -> None:
    """Write the page of :func:`viewer_page` to a file, which is replaced atomically."""
    write_atomically(path, viewer_page(maps, title, summaries), durable=False)


def viewer_page(
    maps: Sequence[Mapping[str, Any]],
    title: str,
    summaries: Mapping[int, EncodedSummaries] | None = None,
) -> str:
    """A self-contained page to browse maps by example, layer, head and training step.

    The page needs no network. If the maps of all steps are too large, the page has fewer steps,
    evenly spaced, and says so. It draws summaries at the same steps.

    Args:
        maps: from :func:`encode_map`, in any order; examples and layers are listed in the order in
            which they first occur. Maps of several runs have the run's name as "run".
        title: the page's title.
        summaries: from :func:`encode_summaries`, by step.

    Raises:
        ValueError: if there are no maps.
    """
    if not maps:
        raise ValueError("there must be at least one attention map")
    kept, left_out = _thinned(maps)
    shown = {each["step"] for each in kept}
    return template().render(
        title=title,
        data={
            "ramps": {
                "light": {"above": _colours(WHITE_TO_BLUE), "below": _colours(WHITE_TO_RED)},
                "dark": {"above": _colours(NIGHT_TO_BLUE), "below": _colours(NIGHT_TO_RED)},
            },
            "steps_left_out": left_out,
            "maps": kept,
            "summaries": {step: each for step, each in (summaries or {}).items() if step in shown},
        },
    )


@functools.cache
def template() -> "Template":
    """The page's template, with its styles and scripts."""
    import jinja2  # only where it is used: rendering a map must not wait for it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("viewer_page")),
        autoescape=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    for name in environment.list_templates():  # else the first page would compile them
        environment.get_template(name)
    return environment.get_template("page.html.j2")


def encode_map(map: AttentionMap, levels: int = 255) -> dict[str, Any]:
    """A map as a dict for JSON, with the weights of each head compressed.

    The weights (L, S) of a head are codes from 0 to ``levels``, as zlib-compressed bytes in base64.
    A code c > 1 encodes the weight ``limit · r · |r|``, where r = (c - zero) / (levels - zero).
    Encoding the root gives small weights more precision: the error is at most 1/250 for weights
    from 0 to 1 and 255 levels, twice that in a map that has weights below 0, and less than 1/65000
    with 65535 levels.

    Args:
        map: the map.
        levels: the largest code: 255, or 65535 for twice the bytes.
    """
    weights = map.weights.detach().float()
    finite = torch.where(weights.isfinite(), weights, 0.0)
    limit = max(1.0, float(finite.abs().max()))
    zero = (levels + 3) // 2 if finite.min() < 0 else 2
    codes = finite.sign() * (finite.abs() / limit).sqrt() * (levels - zero) + zero
    codes = codes.round().masked_fill(~weights.isfinite(), NOT_FINITE)
    if map.hidden is not None:
        codes = codes.masked_fill(map.hidden, HIDDEN)
    return {
        "step": map.step,
        "example": map.example,
        "layer": map.layer,
        "rows": map.rows,
        "columns": map.columns,
        "sources": map.sources,
        "note": map.note,
        "limit": limit,
        "zero": zero,
        "levels": levels,
        "heads": [_compressed(head, levels) for head in codes],
    }


def encode_summaries(layers: LayerSummaries) -> EncodedSummaries:
    """Summaries of one step for JSON, with six digits; None where a head has no finite number.

    Summaries that do not apply to a layer are left out.
    """
    encoded = {
        layer: {name: [_rounded(value) for value in values] for name, values in summaries.items()}
        for layer, summaries in layers.items()
    }
    return {
        layer: {
            name: values for name, values in summaries.items() if values.count(None) < len(values)
        }
        for layer, summaries in encoded.items()
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _thinned(maps: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """The maps of evenly spaced steps that fit into a page, and the number of steps left out."""
    steps = sorted({each["step"] for each in maps})
    size = sum(len(head) for each in maps for head in each["heads"])
    count = max(2, len(steps) * MAX_SIZE // max(size, 1))
    if len(steps) <= count:
        return list(maps), 0
    last = len(steps) - 1
    kept = {steps[round(index * last / (count - 1))] for index in range(count)}
    return [each for each in maps if each["step"] in kept], len(steps) - len(kept)


def _compressed(codes: Tensor, levels: int) -> str:
    kind = "u1" if levels == 255 else "<u2"
    return _base64(zlib.compress(codes.numpy().astype(kind).tobytes()))


def _colours(stops: tuple[str, ...]) -> str:
    return _base64(interpolate(stops))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
