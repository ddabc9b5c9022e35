"""Attention maps: the attention weights of one layer for one example, with named positions."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention_lab.attention import record_attention
from attention_lab.data.core.vocabulary import BOS, SPECIALS

#: The most positions of a sequence that a map shows; the rest of a longer sequence is left out.
MAX_POSITIONS = 128
#: The note of a map whose queries predict a target.
TEACHER_FORCED = "teacher-forced: the targets are given"


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
        note: a note for readers on how the weights were computed.

    Raises:
        ValueError: if the weights are empty or do not match the names.
    """

    step: int
    example: str
    layer: str
    rows: list[str]
    columns: list[str]
    weights: Tensor
    sources: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        shape, named = tuple(self.weights.shape), (len(self.rows), len(self.columns))
        if shape[1:] != named or 0 in shape:
            raise ValueError(
                f"weights must be (heads, {named[0]} rows, {named[1]} columns), got {shape}"
            )


def attention_maps(
    task: Any, batch: Any, labels: list[dict[str, list[str]]], step: int
) -> list[AttentionMap]:
    """The attention maps of every example of a batch, for every attention layer.

    Args:
        task: a LightningModule whose ``model`` has attention layers.
        batch: the examples.
        labels: for each example, the names of the positions of each sequence.
        step: the number of optimizer steps so far.
    """
    was_training = task.training
    task.eval()
    with torch.no_grad(), record_attention(task.model) as calls:
        task.record_attention(batch)
    task.train(was_training)
    maps = []
    for layer, (over_rows, over_columns) in task.model.attention_axes().items():
        if not calls[layer]:
            continue  # the mechanism has no weights, so there is nothing to show
        predicts = over_rows in ("target", "both") or task.task == "language_model"
        note = TEACHER_FORCED if predicts else ""
        # A decoder that decodes step by step calls its layer once for each row of the map.
        weights = torch.cat(calls[layer], dim=2).float().cpu()
        for number, example in enumerate(labels):
            rows = _position_names(example, over_rows, is_query=True)[:MAX_POSITIONS]
            columns = _position_names(example, over_columns, is_query=False)[:MAX_POSITIONS]
            unpadded = weights[number, :, : len(rows), : len(columns)]
            name = _example_name(example, number)
            is_joint = over_rows == over_columns == "both"
            sources = len(example["source"]) if is_joint else MAX_POSITIONS
            boundary = sources if sources < MAX_POSITIONS else None
            maps.append(AttentionMap(step, name, layer, rows, columns, unpadded, boundary, note))
    return maps


def _position_names(example: dict[str, list[str]], sequence: str, is_query: bool) -> list[str]:
    """The names of the positions of a sequence.

    A target position reads one token and predicts the next one. As a query it has the name of the
    token it predicts, as a key the name of the token it reads.
    """
    if sequence == "both":
        return [
            *_position_names(example, "source", is_query),
            *_position_names(example, "target", is_query),
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
