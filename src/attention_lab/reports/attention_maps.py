"""Attention maps of the compared groups, embedded in the page."""

import base64
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from attention_lab.reports.attention_summaries import read_summaries
from attention_lab.reports.charts.styles import group_styles
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.formatting import metric_name
from attention_lab.reports.groups import Group
from attention_lab.reports.runs import RecordedRun
from attention_lab.tracking.untrusted_files import is_png, read_bytes

#: The most groups whose maps are in a page; those of the others are in their viewers.
MAX_GROUPS = 4
#: The most bytes of images in a page, where they need a third more.
MAX_BYTES = 2_000_000


class Map(NamedTuple):
    """One attention map, embedded in the page."""

    #: The style number of the group; None if it has none.
    style: int | None
    label: str
    run: RecordedRun
    step: int
    #: A data URI.
    image: str
    #: Whether the image is much wider than high, as with many heads.
    is_wide: bool
    #: The summaries of the layer at this step, in words: "entropy 1.23, diagonal 0.4".
    summaries: str


@dataclass
class Gallery:
    """The attention maps of chosen groups on the same examples."""

    #: The maps of the groups, by example and layer.
    maps: dict[str, dict[str, list[Map]]] = field(default_factory=dict)
    #: Labels of finished groups that have no maps.
    without: list[str] = field(default_factory=list)
    #: Layers of examples that are left out to limit the size of the page.
    left_out: list[str] = field(default_factory=list)


def map_gallery(comparison: Comparison) -> Gallery:
    """The maps of the last validation of one seed of some groups: the baseline and the best.

    It is the same seed in all groups if one seed has maps in all of them.
    """
    styles = group_styles(comparison)
    groups = [
        group
        for group in comparison.groups
        if group.finished and (group in styles or group is comparison.baseline)
    ]
    last = {run.directory: _last_images(run) for group in groups for run in group.finished}
    with_maps = {
        group: some
        for group in groups
        if (some := [run for run in group.finished if last[run.directory][1]])
    }
    seed = _shared_seed(with_maps.values())
    runs = {group: _run_of(seed, some) for group, some in with_maps.items()}
    found: dict[str, dict[str, list[_Image]]] = {}
    for group in _chosen(comparison, runs):
        step, paths = last[runs[group].directory]
        summaries = _summaries_at(runs[group], step)
        for path in paths:
            example, _, layer = path.stem.partition("-")
            known = ", ".join(summaries.get(layer, []))
            image = _Image(styles.get(group), group.label, runs[group], step, path, known)
            found.setdefault(_example(example), {}).setdefault(layer, []).append(image)
    result = Gallery(without=[group.label for group in groups if group not in runs])
    weight = 0
    for example, layers in found.items():
        for layer, images in layers.items():
            size = sum(image.path.stat().st_size for image in images)
            if weight + size > MAX_BYTES:
                result.left_out.append(f"{layer} on {example}" if layer else example)
                continue
            weight += size
            result.maps.setdefault(example, {})[layer] = [image.embedded() for image in images]
    return result


def _chosen(comparison: Comparison, groups: Collection[Group]) -> list[Group]:
    """The baseline and the best of the groups, at most ``MAX_GROUPS``, in the report's order."""
    ranked = [comparison.baseline, *(group for group, _ in comparison.ranking.means), *groups]
    known = [group for group in dict.fromkeys(ranked) if group in groups][:MAX_GROUPS]
    return [group for group in comparison.groups if group in known]


class _Image(NamedTuple):
    """The PNG of an attention map on disk."""

    style: int | None
    label: str
    run: RecordedRun
    step: int
    path: Path
    summaries: str

    def embedded(self) -> Map:
        """The map as part of the page."""
        data = read_bytes(self.path)
        # A PNG starts with a signature of 8 bytes and a header: length, "IHDR", width, height.
        width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        image = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        is_wide = width > 2.2 * height
        return Map(self.style, self.label, self.run, self.step, image, is_wide, self.summaries)


def _summaries_at(run: RecordedRun, step: int) -> dict[str, list[str]]:
    """The summaries of each layer at a step, in words."""
    layers: dict[str, list[str]] = {}
    for (summary, layer), values in read_summaries(run).items():
        if step in values:
            layers.setdefault(layer, []).append(f"{metric_name(summary)} {values[step]:.3g}")
    return layers


def _run_of(seed: int | None, runs: Iterable[RecordedRun]) -> RecordedRun:
    """The run of a seed, or that of the smallest seed if there is none."""
    return min(runs, key=lambda run: (run.seed != seed, run.seed or 0))


def _example(file_name: str) -> str:
    """The name of an example, decoded from a file name."""
    return unquote(file_name.replace("_", " "))


def _shared_seed(groups: Iterable[Sequence[RecordedRun]]) -> int | None:
    """The first seed that every group of runs has."""
    each = [{run.seed for run in runs if run.seed is not None} for runs in groups]
    shared = set.intersection(*filter(None, each)) if any(each) else set()
    return min(shared, default=None)


def _last_images(run: RecordedRun) -> tuple[int, list[Path]]:
    """The step of the last validation that has attention maps, and their PNG files."""
    folders = {step_of(folder): folder for folder in run.directory.glob("attention/step-*")}
    for step in sorted(folders, reverse=True):
        paths = sorted(folders[step].glob("*.png"))
        if images := [path for path in paths if is_png(path, root=run.directory)]:
            return step, images
    return 0, []


def step_of(folder: Path) -> int:
    """The step of a folder step-NNNNNN; 0 if it has another name."""
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0
