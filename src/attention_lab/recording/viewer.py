"""One HTML page to look through all attention maps of a run."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attention_lab.recording.maps import WHITE_TO_BLUE, AttentionMap, levels, ramp

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


def write_viewer(maps: Sequence[AttentionMap], path: Path, title: str) -> None:
    """Write one self-contained page that shows any example and layer as training goes on.

    The page needs no network. It holds every weight as one byte, so what it shows is within 1/255
    of the truth. The file appears whole or not at all.

    Args:
        maps: in any order; examples and layers are offered in the order they first occur.
        path: the HTML file.
        title: of the page.

    Raises:
        ValueError: if there are no maps.
    """
    if not maps:
        raise ValueError("there must be at least one attention map")
    import jinja2  # only where it is used: whoever draws a map should not wait for it

    environment = jinja2.Environment(
        autoescape=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    template = Path(__file__).with_name("viewer.html.j2").read_text("utf-8")
    page = environment.from_string(template).render(
        title=title,
        data={
            "ramps": {"light": _base64(ramp(WHITE_TO_BLUE)), "dark": _base64(ramp(NIGHT_TO_BLUE))},
            "maps": [_encode(each) for each in maps],
        },
    )
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(page, "utf-8")
    os.replace(unfinished, path)


def _encode(map: AttentionMap) -> dict[str, Any]:
    """A map as JSON; its weights are base64 of uint8 (H, L, S), 255 times as great."""
    return {
        "step": map.step,
        "example": map.example,
        "layer": map.layer,
        "rows": map.rows,
        "columns": map.columns,
        "heads": len(map.weights),
        "weights": _base64(levels(map.weights).numpy().tobytes()),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
