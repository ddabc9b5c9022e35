"""Record attention weights without changing the model that computes them."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from attention_lab.attention.layer import AttentionLayer
from attention_lab.attention.masks import Mask, NoMask
from attention_lab.attention.scores.base import Score


def attention_layers(model: nn.Module) -> dict[str, AttentionLayer]:
    """Every attention layer of a model by its module name, in the model's order."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, AttentionLayer)
    }


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the weights (B, H, L, S) of every call of each attention layer, by layer name.

    Weights are computed inside this context only; outside it they cost nothing. In step-by-step
    decoding, a layer is called once for each step.

    Example:
        >>> with record_attention(model) as weights:
        ...     model(source, target)
        >>> weights["decoder.0.cross_attention"][0].shape
    """
    layers = attention_layers(model)
    calls: dict[str, list[Tensor]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.weight_hooks.append(calls[name].append)
    try:
        yield calls
    finally:
        for layer in layers.values():
            layer.weight_hooks.pop()


@contextmanager
def record_masks(model: nn.Module) -> Iterator[dict[str, list[tuple[Mask, int]]]]:
    """Record the mask of every call of each attention layer, and the position of its first query.

    The mask is the layer's own combined with that of the call, as attention uses it.
    """
    layers = attention_layers(model)
    calls: dict[str, list[tuple[Mask, int]]] = {name: [] for name in layers}
    handles = [
        layer.register_forward_pre_hook(_mask_hook(calls[name]), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _mask_hook(calls: list[tuple[Mask, int]]) -> Callable[..., None]:
    def record(layer: AttentionLayer, arguments: Any, named: Any) -> None:
        given = inspect.signature(layer.forward).bind(*arguments, **named).arguments
        cache = given.get("cache")
        start = given.get("start", 0) if cache is None else cache.length
        calls.append((layer.mask & (given.get("mask") or NoMask()), start))

    return record


@contextmanager
def record_logits(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the logits (B, H, L, S) of every call of each attention layer's score, by layer name.

    They are without masks, position biases and head mixing. Mechanisms without a score have none. A
    fused backend computes no logits, unless weights are recorded, too.
    """
    calls: dict[str, list[Tensor]] = {name: [] for name in attention_layers(model)}
    handles = [
        score.register_forward_hook(_appending(calls[name]))
        for name, layer in attention_layers(model).items()
        for score in layer.modules()
        if isinstance(score, Score)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _appending(calls: list[Tensor]) -> Callable[..., None]:
    """A forward hook that appends the output to a list."""
    return lambda score, inputs, output: calls.append(output.detach())
