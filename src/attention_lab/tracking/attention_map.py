"""Attention maps: the attention weights of one layer for one example, with named positions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from attention_lab.attention import attention_layers
from attention_lab.data.core.vocabulary import BOS, SPECIALS
from attention_lab.tracking.recorded_attention import RecordedLayer

#: The most positions of a sequence in a map that is recorded during training.
MAX_POSITIONS = 128
#: The note of a map whose queries predict a target.
TEACHER_FORCED = "teacher-forced: the targets are given"
#: The note of a map of a mechanism that computes its output without weights.
IMPLIED = "implied weights: the mechanism computes its output without them"


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The attention weights of one layer for one example at one training step.

    Args:
        step: training step.
        example: the example's name.
        layer: the layer's name.
        rows: names of the L query positions.
        columns: names of the S key positions.
        weights: (H, L, S) float, on the CPU.
        sources: the length of the source, if rows and columns are the source followed by the
            target; otherwise None.
        note: a note for readers on how the weights were computed and which part of them is shown.
        hidden: (H, L, S) bool, True where the mask hides a key from a query; None if all keys are
            visible.

    Raises:
        ValueError: if the weights are empty or do not match the names or ``hidden``.
    """

    step: int
    example: str
    layer: str
    rows: list[str]
    columns: list[str]
    weights: Tensor
    sources: int | None = None
    note: str = ""
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        shape, named = tuple(self.weights.shape), (len(self.rows), len(self.columns))
        if self.hidden is not None and self.hidden.shape != self.weights.shape:
            raise ValueError(f"hidden must be {shape} as the weights, got {self.hidden.shape}")
        if shape[1:] != named or 0 in shape:
            raise ValueError(
                f"weights must be (heads, {named[0]} rows, {named[1]} columns), got {shape}"
            )


def attention_maps(
    task: Any,
    layers: Mapping[str, RecordedLayer],
    labels: list[dict[str, list[str]]],
    step: int,
    note: str = TEACHER_FORCED,
    max_positions: int | None = MAX_POSITIONS,
) -> list[AttentionMap]:
    """The attention maps of every example of a batch, for every recorded layer.

    Args:
        task: a LightningModule whose ``model`` has attention layers.
        layers: from :func:`record_layers`.
        labels: for each example, the names of the positions of each sequence.
        step: the number of optimizer steps so far.
        note: the note of maps whose queries predict a target.
        max_positions: the most positions of a sequence in a map; None means all.
    """
    modules, maps = attention_layers(task.model), []
    for name, layer in layers.items():
        predicts = layer.axes[0] in ("target", "both") or task.task == "language_model"
        notes = [note * predicts, IMPLIED * modules[name].info.implied_weights]
        for number, example in enumerate(labels):
            named, title = _named(example, layer, number), _example_name(example, number)
            whole = AttentionMap(step, title, name, note="; ".join(filter(None, notes)), **named)
            maps.append(_cut(whole, max_positions))
    return maps


def _named(example: dict[str, list[str]], layer: RecordedLayer, number: int) -> dict[str, Any]:
    """An example's names, weights and hidden pairs without padding: arguments of AttentionMap."""
    rows = position_names(example, layer.axes[0], is_query=True)
    columns = position_names(example, layer.axes[1], is_query=False)
    shown = number, slice(None), slice(len(rows)), slice(len(columns))
    hidden = None if layer.hidden is None else layer.hidden[shown]
    return {
        "rows": rows,
        "columns": columns,
        "weights": layer.weights[shown],
        "sources": len(example["source"]) if layer.axes == ("both", "both") else None,
        "hidden": hidden if hidden is not None and hidden.any() else None,
    }


def _cut(map: AttentionMap, most: int | None) -> AttentionMap:
    """The first ``most`` rows and columns of a map, with a note if there are more."""
    totals = {len(map.rows), len(map.columns)}
    if most is None or max(totals) <= most:
        return map
    totals = {total for total in totals if total > most}
    note = f"the first {most} of {' and '.join(f'{total}' for total in sorted(totals))} positions"
    return replace(
        map,
        rows=map.rows[:most],
        columns=map.columns[:most],
        weights=map.weights[:, :most, :most],
        sources=map.sources if map.sources is None or map.sources < most else None,
        note=f"{map.note}; {note}" if map.note else note,
        hidden=None if map.hidden is None else map.hidden[:, :most, :most],
    )


def position_names(example: dict[str, list[str]], sequence: str, is_query: bool) -> list[str]:
    """The names of the positions of a sequence.

    A target position reads one token and predicts the next one. As a query it has the name of the
    token it predicts, as a key the name of the token it reads.
    """
    if sequence == "both":
        return [
            *position_names(example, "source", is_query),
            *position_names(example, "target", is_query),
        ]
    names = [_visible(name) for name in example[sequence]]
    return names if is_query or sequence != "target" else [SPECIALS[BOS], *names[:-1]]


def _visible(name: str) -> str:
    """A token with symbols for line breaks, tabs, and the spaces at its ends."""
    inner = name.strip(" ")
    before = len(name) - len(name.lstrip(" ")) if inner else len(name)
    after = len(name) - before - len(inner)
    return "␣" * before + inner.replace("\n", "↵").replace("\t", "⇥") + "␣" * after


def _example_name(example: dict[str, list[str]], number: int) -> str:
    if "source" not in example:
        return f"example {number + 1}"
    are_characters = all(len(token) == 1 for token in example["source"])
    return ("" if are_characters else " ").join(example["source"])


def file_name(example: str) -> str:
    """An example's name as part of a file name: special characters as %XX, as in a URL."""
    return re.sub(r"[^\w' ]", lambda odd: f"%{ord(odd[0]):02X}", example)[:60].replace(" ", "_")
