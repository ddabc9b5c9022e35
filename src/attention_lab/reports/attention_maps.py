"""Attention maps of the compared groups, embedded in the page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from attention_lab.reports.charts.styles import group_styles
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group
from attention_lab.reports.runs import RecordedRun
from attention_lab.tracking.untrusted_files import is_png, read_bytes

#: The most bytes of images in a page; further examples are left out.
MAX_BYTES = 12_000_000
#: The most bytes of the first example, which has a higher limit so that any is shown.
MAX_BYTES_OF_FIRST = 64_000_000


class Map(NamedTuple):
    """One attention map, embedded in the page."""

    #: The style number of the group.
    style: int
    label: str
    seed: int | None
    step: int
    #: A data URI.
    image: str
    #: Whether the image is much wider than high, as of many heads.
    is_wide: bool


@dataclass
class Gallery:
    """The attention maps of all groups on the same examples."""

    #: The maps of the groups, by example and layer.
    maps: dict[str, dict[str, list[Map]]] = field(default_factory=dict)
    #: Labels of finished groups that have no maps.
    without: list[str] = field(default_factory=list)
    #: Examples left out to limit the size of the page.
    left_out: list[str] = field(default_factory=list)


def map_gallery(comparison: Comparison) -> Gallery:
    """The maps of the last validation of one seed of each group that has a style.

    It is the same seed in all groups if one seed has maps in all of them.
    """
    shown = {group: style for group, style in group_styles(comparison).items() if group.finished}
    seed = _shared_seed(list(shown))
    result = Gallery()
    found: dict[str, dict[str, list[_Image]]] = {}
    for group, style in shown.items():
        images = _images(style, group, seed)
        result.without.extend([] if images else [group.label])
        for image in images:
            example, _, layer = image.path.stem.partition("-")
            found.setdefault(_example(example), {}).setdefault(layer, []).append(image)
    weight = 0
    for example, layers in found.items():
        each = [image for images in layers.values() for image in images]
        weight += sum(image.path.stat().st_size for image in each)
        if weight > (MAX_BYTES if result.maps else MAX_BYTES_OF_FIRST):
            result.left_out.append(example)
        else:
            result.maps[example] = {
                layer: [image.embedded() for image in images] for layer, images in layers.items()
            }
    return result


class _Image(NamedTuple):
    """The PNG of an attention map on disk."""

    style: int
    label: str
    seed: int | None
    step: int
    path: Path

    def embedded(self) -> Map:
        """The map as part of the page."""
        data = read_bytes(self.path)
        # A PNG starts with a signature of 8 bytes and a header: length, "IHDR", width, height.
        width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        image = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return Map(self.style, self.label, self.seed, self.step, image, width > 2.2 * height)


def _images(style: int, group: Group, seed: int | None) -> list[_Image]:
    """The maps of a seed of a group; of its first seed with maps if that seed has none."""
    runs = sorted(group.finished, key=lambda run: (run.seed != seed, run.seed or 0))
    for run in runs:
        step, paths = _last_images(run)
        if paths:
            return [_Image(style, group.label, run.seed, step, path) for path in paths]
    return []


def _example(file_name: str) -> str:
    """The name of an example, decoded from a file name."""
    return unquote(file_name.replace("_", " "))


def _shared_seed(groups: Sequence[Group]) -> int | None:
    """The first seed that has maps in every group with maps."""
    each = [
        {run.seed for run in group.finished if run.seed is not None and _last_images(run)[1]}
        for group in groups
    ]
    shared = set.intersection(*filter(None, each)) if any(each) else set()
    return min(shared, default=None)


def _last_images(run: RecordedRun) -> tuple[int, list[Path]]:
    """The step of the last validation that has attention maps, and their PNG files."""
    folders = {_step(folder): folder for folder in run.directory.glob("attention/step-*")}
    for step in sorted(folders, reverse=True):
        paths = sorted(folders[step].glob("*.png"))
        if images := [path for path in paths if is_png(path, root=run.directory)]:
            return step, images
    return 0, []


def _step(folder: Path) -> int:
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0
