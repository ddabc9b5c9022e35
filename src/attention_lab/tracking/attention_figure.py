"""Attention maps as a figure for a paper: PNG, or PDF and SVG as vectors."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attention_lab.atomic_write import replacing
from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.colormaps import HATCHED, MAGENTA, NOT_FINITE, red_to_blue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Sizes in inches, and the size of names in points.
_CELL = 0.3
_LONGEST_SIDE = 6.0
_LINED_CELL = 0.12  # smaller cells have no lines between them
_NAME = 0.15  # least distance between two names
_BAR = 2.4
_GAP = 0.4  # between maps
_FONT = 8

_LINE, _FRAME, _HIDDEN, _FAINT_INK = "#e6e9ee", "#b9bfc9", "#c3c8d0", "#626975"


def write_figure(
    panels: Sequence[tuple[str, AttentionMap]], head: str, kind: str, path: Path
) -> None:
    """Draw one head of a map, or its heads combined, with the colours of the viewer.

    Pairs that the mask hides are hatched, and weights that are NaN or infinite are magenta. Several
    maps are side by side, with their titles above and one colour scale.

    Args:
        panels: the title and the map of each panel.
        head: "0", "1", …, "mean" or "max".
        kind: "png", "pdf" or "svg".
        path: the file, which is replaced atomically.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = [_combined(map, head) for _, map in panels]
    sides = np.array([weights.shape for weights, _ in drawn])
    cell = min(_CELL, _LONGEST_SIDE / sides.max())
    figure = Figure((sides[0, 1] * cell, sides[:, 0].max() * cell))
    mesh = _draw_panels(figure, panels, drawn, cell)
    weights, hidden = (
        torch.cat([each.flatten() for each in one]) for one in zip(*drawn, strict=True)
    )
    _draw_scale(figure, mesh, weights, hidden)
    with (
        rc_context({"svg.hashsalt": "attention-lab", "hatch.linewidth": 0.5}),
        warnings.catch_warnings(),
        replacing(path, durable=False) as file,
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        figure.savefig(file, format=kind, dpi=300, bbox_inches="tight", metadata=undated)


def _draw_panels(
    figure: "Figure",
    panels: Sequence[tuple[str, AttentionMap]],
    drawn: Sequence[tuple[Tensor, Tensor]],
    cell: float,
) -> "QuadMesh":
    """Draw maps side by side, aligned at the top; returns the cells of the last one.

    The first fills the figure's width, so the others are beyond it: saving makes room for them.
    """
    width, height = figure.get_size_inches()
    right = 0.0
    for (title, map), (weights, hidden) in zip(panels, drawn, strict=True):
        rows, columns = (count * cell for count in weights.shape)
        left = right + _GAP + _text_width(_shorten(map.rows)) if right else right
        axes = figure.add_axes((left / width, 1 - rows / height, columns / width, rows / height))
        # The axes' own hatching shows through hidden cells.
        axes.patch.set(hatch="/////", edgecolor=_HIDDEN, facecolor="white", linewidth=0)
        mesh = _draw_cells(axes, weights, hidden, cell)
        _draw_names(axes, map, cell)
        right = left + columns
        if len(panels) > 1:
            axes.set_title(title, loc="left", fontsize=_FONT, parse_math=False)
            right = left + max(columns, _text_width(title.splitlines()))
    return mesh


def _draw_cells(axes: "Axes", weights: Tensor, hidden: Tensor, cell: float) -> "QuadMesh":
    """Draw the weights (L, S) that are not hidden."""
    from matplotlib.colors import FuncNorm, ListedColormap

    lines: Any = {"edgecolors": _LINE if cell >= _LINED_CELL else "none", "linewidth": 0.5}
    not_finite = ~weights.isfinite()
    mesh = axes.pcolormesh(
        np.ma.masked_array(weights.nan_to_num().numpy(), hidden.numpy()),
        cmap=_colormap(),
        norm=FuncNorm((_root, _square), vmin=-1, vmax=1, clip=True),
        **lines,
    )
    if not_finite.any():
        drawn = np.ma.masked_array(not_finite.numpy(), (hidden | ~not_finite).numpy())
        axes.pcolormesh(drawn, cmap=ListedColormap([NOT_FINITE]), **lines)
    axes.invert_yaxis()
    return mesh


def _combined(map: AttentionMap, head: str) -> tuple[Tensor, Tensor]:
    """Weights (L, S) of a head or of all combined, and where they are hidden."""
    hidden = torch.zeros_like(map.weights, dtype=torch.bool) if map.hidden is None else map.hidden
    if head == "mean":
        return map.weights.mean(0), hidden.all(0)
    if head == "max":
        visible = map.weights.masked_fill(hidden, -torch.inf).amax(0)
        return visible.masked_fill(hidden.all(0), 0.0), hidden.all(0)
    return map.weights[int(head)], hidden[int(head)]


def _colormap() -> "Colormap":
    """Colours of weights from -1 to 1."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(np.frombuffer(red_to_blue(), np.uint8).reshape(511, 3) / 255)


def _root(weight: np.ndarray) -> np.ndarray:
    return np.sign(weight) * np.sqrt(np.abs(weight))


def _square(root: np.ndarray) -> np.ndarray:
    return np.sign(root) * root**2


def _shorten(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= 16 else f"{name[:15]}…" for name in names]


def _text_width(lines: Sequence[str]) -> float:
    """About the width of the longest line in inches."""
    return max(map(len, lines)) * _FONT / 72 * 0.65


def _draw_names(axes: "Axes", shown: AttentionMap, cell: float) -> None:
    """The names of rows and columns, or of every 3rd, 5th, … where they would be too close."""
    every = math.ceil(_NAME / cell) | 1
    rows, columns = _shorten(shown.rows), _shorten(shown.columns)
    axes.set_yticks(np.arange(0.5, len(rows), every), rows[::every], fontsize=_FONT)
    turned = _text_width(columns) > every * cell
    axes.set_xticks(np.arange(0.5, len(columns), every), columns[::every], fontsize=_FONT)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.tick_params(axis="x", labelrotation=90 * turned)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)  # text between dollar signs is no formula
    for spine in axes.spines.values():
        spine.set(color=_FRAME, linewidth=0.8)
    if shown.sources is not None:
        for line in (axes.axhline, axes.axvline):
            line(shown.sources, color="#22262d", linewidth=1)


def _draw_scale(figure: "Figure", mesh: "QuadMesh", weights: Tensor, hidden: Tensor) -> None:
    """A colour scale of fixed length below the maps, so that its labels do not overlap.

    Args:
        figure: the figure.
        mesh: the cells of a map.
        weights: those of all maps, (N,).
        hidden: where they are hidden, (N,) bool.
    """
    width, height = figure.get_size_inches()
    bar = figure.add_axes((0, -0.28 / height, _BAR / width, 0.1 / height))
    is_finite = weights.isfinite()
    notes = [HATCHED * bool(hidden.any()), MAGENTA * bool((~is_finite & ~hidden).any())]
    weights = weights.masked_fill(~is_finite, 0.0)
    least, most = float(weights.min()), float(weights.max())
    colorbar = figure.colorbar(mesh, cax=bar, orientation="horizontal")
    assert colorbar.solids is not None
    colorbar.solids.set(rasterized=False, edgecolor="face")  # an image would blur when enlarged
    colorbar.outline.set(edgecolor=_FRAME, linewidth=0.8)
    marks = [0, 0.01, 0.1, 0.5, 1] if least >= 0 else [-1, -0.5, -0.1, 0, 0.1, 0.5, 1]
    bar.set_xlim(0 if least >= 0 else -1, 1)
    labels = [f"{mark:g}".replace("-", "−") for mark in marks]
    if most > 1:
        labels[-1] = "≥1"
    if least < -1:
        labels[0] = "≤−1"
    bar.set_xticks(marks, labels, fontsize=_FONT - 1)
    bar.tick_params(length=2, pad=2, colors=_FAINT_INK)
    bar.minorticks_off()
    note = "; ".join(filter(None, notes))
    bar.text(0, -3.2, note, fontsize=_FONT - 1, va="top", color=_FAINT_INK, transform=bar.transAxes)
