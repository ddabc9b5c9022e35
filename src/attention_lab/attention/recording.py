"""Record attention weights without changing the model that computes them."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attention_lab.attention.backends.api import EAGER
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.layer import AttentionLayer
from attention_lab.attention.masks import Mask, NoMask
from attention_lab.attention.precision import wide
from attention_lab.attention.scores.base import Score

#: The most pairs of positions of a call that the eager backend computes again.
_EAGER_PAIRS = 2**18
#: Whether the eager backend computes an output again, so that its logits are not recorded.
_comparing = ContextVar("_comparing", default=False)


class OutputError(NamedTuple):
    """How far the output of attention is from that of the recorded weights, relative to its size.

    An error above the limit is more than rounding.
    """

    size: float
    limit: float

    @property
    def is_mismatch(self) -> bool:
        return not self.size <= self.limit  # NaN is a mismatch


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

    They are without masks, position biases and head mixing. Mechanisms without a score have none.
    The backends sdpa and flex, and fused on a GPU, compute no logits of whole sequences; under a
    sliding window no backend does. Record weights, too, to get the logits of these calls.
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
    """A forward hook that appends the output to a list, except while outputs are compared."""

    def append(score: nn.Module, inputs: Any, output: Tensor) -> None:
        if not _comparing.get():
            calls.append(output.detach())

    return append


@contextmanager
def record_errors(model: nn.Module) -> Iterator[dict[str, list[OutputError]]]:
    """Compare the output of each attention layer with its weights, in every call, by layer name.

    The output is that of the layer's backend, per head. It must be weights · values, and the same
    as with the weights of the eager backend: a backend may compute its output from its own weights.
    Mechanisms whose output is more than weights · values (``info.linear_in_values``) are compared
    with the eager backend's output. The weights must be recorded, too (:func:`record_attention`).
    """
    layers = attention_layers(model)
    errors: dict[str, list[OutputError]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.attend_hooks.append(_error_hook(layer, errors[name]))
    try:
        yield errors
    finally:
        for layer in layers.values():
            layer.attend_hooks.pop()


def _error_hook(layer: AttentionLayer, errors: list[OutputError]) -> Callable[..., None]:
    def compare(inputs: AttentionInputs, output: Tensor, weights: Tensor | None) -> None:
        if weights is None or not output.numel():
            return
        found = []
        if layer.info.linear_in_values:
            found.append(_error(inputs, output, *_terms(inputs, weights)))
        if layer.backend is not EAGER or not found:
            rows = _last_rows(inputs)
            expected = _eager_terms(layer, rows)
            found.append(_error(rows, output[:, :, -rows.query.shape[2] :], *expected))
        limit = torch.finfo(output.dtype).eps ** 0.5
        # NaN is the greatest error.
        errors.append(OutputError(float(torch.stack(found).amax()), limit))

    return compare


def _error(inputs: AttentionInputs, output: Tensor, expected: Tensor, size: Tensor) -> Tensor:
    """The greatest error of an output, relative to the greatest size of its terms in each row."""
    eps, largest = torch.finfo(output.dtype).eps, wide(inputs.value).abs().amax()
    # Weights so small that they are rounded to 0 are no mismatch.
    size = size.amax(-1, keepdim=True).clamp(min=max(float(eps * largest), 1e-30))
    return ((wide(output) - expected).abs() / size).amax()


def _terms(inputs: AttentionInputs, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The output (B, H, L, E_v) that weights give, and the size of its terms."""
    weights, value = wide(weights), wide(inputs.repeat_heads().value)
    return weights @ value, weights.abs() @ value.abs()


def _eager_terms(layer: AttentionLayer, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """The output of the eager backend (B, H, L, E_v), and the size of its terms."""
    backend, layer.backend = layer.backend, EAGER
    comparing = _comparing.set(True)
    try:
        output, weights = layer.attend(inputs)
    finally:
        layer.backend = backend
        _comparing.reset(comparing)
    if layer.info.linear_in_values:
        assert weights is not None
        return _terms(inputs, weights)
    return wide(output), wide(output).abs()


def _last_rows(inputs: AttentionInputs) -> AttentionInputs:
    """The last queries, as many as the eager backend is sure to have memory for."""
    batch, heads, queries, _ = inputs.query.shape
    rows = max(1, min(queries, _EAGER_PAIRS // max(1, batch * heads * inputs.key.shape[2])))
    skipped = queries - rows
    return replace(inputs, query=inputs.query[:, :, skipped:], start=inputs.start + skipped)
