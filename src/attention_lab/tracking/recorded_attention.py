"""Recording the attention of all layers of a network in one pass over a batch."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention_lab.attention import (
    Mask,
    OutputError,
    record_attention,
    record_errors,
    record_logits,
    record_masks,
)


@dataclass(frozen=True, eq=False)
class RecordedLayer:
    """The attention of one layer for a batch of examples, on the CPU.

    Args:
        axes: the sequences of the queries and of the keys (``Network.attention_axes``).
        weights: (B, H, L, S) float.
        logits: those of the score, (B, H, L, S) float; None if there are none or they were not
            recorded.
        error: how far the output is from that of the weights, at most; None if that is unknown.
        hidden: (B, H, L, S) bool, True where the mask hides a key from a query; None if all keys
            are visible.
    """

    axes: tuple[str, str]
    weights: Tensor
    logits: Tensor | None = None
    error: OutputError | None = None
    hidden: Tensor | None = None


def record_layers(
    task: Any, batch: Any, *, for_summaries: bool = False
) -> dict[str, RecordedLayer]:
    """The attention of each layer that has weights, by name, in evaluation mode.

    Args:
        task: a LightningModule whose ``model`` has attention layers.
        batch: the examples.
        for_summaries: whether to record logits and errors, too.
    """
    network, was_training = task.model, task.training
    with ExitStack() as stack, torch.no_grad():
        weights = stack.enter_context(record_attention(network))
        masks = stack.enter_context(record_masks(network))
        logits = stack.enter_context(record_logits(network)) if for_summaries else {}
        errors = stack.enter_context(record_errors(network)) if for_summaries else {}
        stack.callback(task.train, was_training)
        task.eval()
        task.record_attention(batch)
    layers = {}
    for name, axes in network.attention_axes().items():
        if calls := weights[name]:
            layers[name] = RecordedLayer(
                axes,
                joined_rows(calls),
                _largest(logits.get(name, ()), len(calls)),
                max(errors.get(name, ()), key=_severity, default=None),
                _hidden(calls, masks[name]),
            )
    return layers


def joined_rows(calls: Sequence[Tensor]) -> Tensor:
    """The rows of all calls of a layer as one (B, H, L, S) float tensor on the CPU.

    A decoder that decodes step by step calls its layer once for each row.
    """
    return torch.cat(list(calls), dim=2).float().cpu()


def _hidden(calls: list[Tensor], masks: list[tuple[Mask, int]]) -> Tensor | None:
    """Where masks hide keys, (B, H, L, S) bool, for the weights of the same calls."""
    parts = []
    for weights, (mask, start) in zip(calls, masks, strict=True):
        batch, heads, queries, keys = weights.shape
        visible = mask.dense(batch, heads, queries, keys, weights.device, start)
        parts.append(~visible.expand(weights.shape).cpu())
    hidden = torch.cat(parts, dim=2)
    return hidden if hidden.any() else None


def _severity(error: OutputError) -> tuple[bool, float]:
    return error.is_mismatch, error.size


def _largest(logits: Sequence[Tensor], calls: int) -> Tensor | None:
    """The logits of each row; the larger ones if each call of the layer computes several."""
    if not logits:
        return None
    maps = len(logits) // calls
    return torch.stack([joined_rows(logits[first::maps]) for first in range(maps)]).amax(0)
