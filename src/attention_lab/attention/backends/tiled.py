"""The tiled backend: attention of dot products on the CPU, a tile of queries at a time.

The logits of a tile fit into the processor's cache, in which each further step is fast. The
backward pass computes them again, so that no logits or weights of all pairs are kept.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attention_lab.attention.backends.reference import eager, masked_weights
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.backends.tracing import is_tracing
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.normalizers import Normalizer
from attention_lab.attention.precision import autocast_disabled, wide
from attention_lab.attention.scores.base import DotProductFamily

#: The most logits of a tile.
TILE = 1 << 18
#: The fewest pairs of a call, without and with a backward pass, for which tiles are faster.
FEWEST = 1 << 21
FEWEST_IN_TRAINING = 1 << 23


def tiled(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor | None]:
    """Output (B, H, L, E_v) in tiles, without weights; where they are not faster, as eager."""
    if spec.dropout or not tiles_are_faster(inputs):
        return eager(inputs, spec)
    assert isinstance(spec.score, DotProductFamily)
    return attend_in_tiles(inputs, spec.score.fold(inputs.query, inputs.key), spec.normalizer), None


def tiles_are_faster(inputs: AttentionInputs) -> bool:
    """Whether a call runs on the CPU, outside of compiled graphs, and has many pairs."""
    if not outside_graphs_on_cpu(inputs):
        return False
    needs_grad = torch.is_grad_enabled() and inputs.query.requires_grad
    return inputs.pairs >= (FEWEST_IN_TRAINING if needs_grad else FEWEST)


def outside_graphs_on_cpu(inputs: AttentionInputs) -> bool:
    """Whether a call runs on the CPU and is not recorded in a graph, for which sizes may vary."""
    is_recorded = torch.compiler.is_compiling() or is_tracing()
    return inputs.device.type == "cpu" and not is_recorded


def attend_in_tiles(
    inputs: AttentionInputs, folded: tuple[Tensor, Tensor, float], normalizer: Normalizer
) -> Tensor:
    """Output (B, H, L, E_v) of attention with the logits of a dot product, plus the bias.

    Works with torch.func.vmap; also with torch.func.grad and second derivatives, which need memory
    for all pairs.

    Args:
        inputs: value, mask and bias.
        folded: query, key and scale, as ``DotProductFamily.fold`` returns them.
        normalizer: makes weights of the logits; has no parameters.
    """
    query, key, scale = folded
    given = replace(inputs, query=scale * wide(query), key=wide(key)).repeat_heads()
    bias = inputs.bias
    while bias is not None and bias.ndim < 4:
        bias = bias.unsqueeze(0)
    after = torch.inf if inputs.mask is None else inputs.mask.reach[1]
    limit = None if after == torch.inf else inputs.start + int(after)
    tensors = given.query, given.key, given.value, bias, inputs.visible()
    with autocast_disabled(inputs.device.type):
        output: Tensor = _Attention.apply(*tensors, limit, normalizer)
    return output


class _Attention(torch.autograd.Function):
    """Query i may attend to keys up to i + limit, if there is a limit."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        query, key, value, bias, visible, limit, normalizer = arguments
        output: Tensor = value.new_empty(*query.shape[:3], value.shape[3])
        for tile, keys in _tiles(query, key, limit):
            logits = _logits(query[tile], key[keys], _part(bias, tile, keys))
            weights = masked_weights(logits, _part(visible, tile, keys), normalizer)
            output[tile] = weights.to(value.dtype) @ value[keys]
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.limit, ctx.normalizer = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, visible = ctx.saved_tensors
        # If gradients of gradients are asked for, autograd records the backward pass.
        if torch.is_grad_enabled():
            return *_plain_gradients(gradient, ctx.normalizer, *ctx.saved_tensors), None, None, None
        # In half precision, sums over many tiles would lose small terms.
        to_query, to_key, to_value = (torch.zeros_like(wide(x)) for x in (query, key, value))
        to_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        for tile, keys in _tiles(query, key, ctx.limit):
            logits = _logits(query[tile], key[keys], _part(bias, tile, keys)).requires_grad_()
            with torch.enable_grad():
                weights = masked_weights(logits, _part(visible, tile, keys), ctx.normalizer)
            outer = gradient[tile]
            to_value[keys] += weights.detach().to(value.dtype).mT @ outer
            to_weights = (outer @ value[keys].mT).to(weights.dtype)
            (to_logits,) = torch.autograd.grad(weights, logits, to_weights)
            to_query[tile] = to_logits @ key[keys]
            to_key[keys] += to_logits.mT @ query[tile]
            if to_bias is not None:
                part = _part(to_bias, tile, keys)
                part += to_logits.sum_to_size(part.shape)
        return to_query, to_key, to_value.to(value.dtype), to_bias, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        """The mapped dimension joins the batch."""
        query, at = arguments[0], in_dims[0]
        batch = (query if at is None else query.movedim(at, 0)[0]).shape[0]

        def joined(x: Any, at: int | None) -> Any:
            if not isinstance(x, Tensor):
                return x
            mapped = x.unsqueeze(0) if at is None else x.movedim(at, 0)
            return mapped.expand(info.batch_size, batch, *mapped.shape[2:]).flatten(0, 1)

        output: Tensor = _Attention.apply(*map(joined, arguments, in_dims))
        return output.unflatten(0, (info.batch_size, batch)), 0


def _plain_gradients(
    gradient: Tensor, normalizer: Normalizer, *tensors: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients for query, key, value and bias, by operations that can be differentiated again."""
    *inputs, bias, visible = tensors

    def attend(query: Tensor, key: Tensor, value: Tensor, *bias: Tensor) -> Tensor:
        logits = query @ key.mT
        for each in bias:
            logits = logits + each
        return masked_weights(logits, visible, normalizer).to(value.dtype) @ value

    primals = inputs if bias is None else [*inputs, bias]
    grads: tuple[Tensor | None, ...] = torch.func.vjp(attend, *primals)[1](gradient)
    return grads if bias is not None else (*grads, None)


def _logits(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    logits = query @ key.mT
    return logits if bias is None else logits.add_(bias)


def _tiles(
    query: Tensor, key: Tensor, limit: int | None
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Slices of queries (B, H, L), and of the keys (B, H, S) that they may attend to."""
    (batch, heads, queries, _), keys = query.shape, key.shape[2]
    pairs = max(1, queries * keys)
    steps = TILE // (heads * pairs), TILE // pairs, TILE // max(1, keys)
    examples, some_heads, rows = (max(1, step) for step in steps)
    for b in range(0, batch, examples):
        for h in range(0, heads, some_heads):
            for i in range(0, queries, rows):
                outside, last = (slice(b, b + examples), slice(h, h + some_heads)), i + rows
                seen = keys if limit is None else min(keys, max(0, last + limit))
                yield (*outside, slice(i, last)), (*outside, slice(seen))


def _part(x: Tensor | None, tile: tuple[slice, ...], keys: tuple[slice, ...]) -> Any:
    """The part of a tensor, broadcastable to (B, H, L, S), that belongs to a tile."""
    if x is None:
        return None
    slices = zip((*tile, keys[2]), x.shape, strict=True)
    return x[tuple(at if size > 1 else slice(None) for at, size in slices)]
