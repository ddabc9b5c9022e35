"""The logits of additive attention, v · tanh(x + y), without a tensor of all pairs × A.

The plain formula builds hidden layers (L, S, A) and keeps them for the backward pass. Here they are
computed again instead, as in ``attn_score`` of NVIDIA's GNMT (2019). On the CPU in single precision
a kernel in C replaces the tanh of each pair by a product of exponentials: see ``cpu/additive.c``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attention_lab.attention.backends.cpu.additive import (
    compiled_gradients,
    compiled_logits,
    usable_kernels,
)

#: The most elements of a tile of hidden layers, by the kind of device; on a CPU it fits its cache.
TILE = {"cpu": 1 << 17}
LARGE_TILE = 1 << 26


def plain_additive_logits(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """The formula, with all hidden layers at once: see :func:`additive_logits`."""
    hidden = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))
    return (hidden * vector[..., None, None, :]).sum(-1)


def additive_logits(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """Logits (N, L, S) = vector · tanh(query + key), summed over the hidden size A.

    Works with torch.compile, torch.func.grad and vmap, and second derivatives, which need hidden
    layers of all pairs.

    Args:
        query: (N, L, A), projected queries.
        key: (N, S, A), projected keys.
        vector: (N, A).
    """
    logits: Tensor = _AdditiveLogits.apply(query, key, vector)
    return logits


class _AdditiveLogits(torch.autograd.Function):
    # torch.func cannot differentiate operators of torch.library, but an autograd.Function of them.
    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
        logits: Tensor = _logits(query, key, vector)
        return logits

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        grads: tuple[Tensor, ...] = _AdditiveGradients.apply(*ctx.saved_tensors, gradient)
        return grads


class _AdditiveGradients(torch.autograd.Function):
    """The gradients as a separate function: its gradients are the second derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, vector: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        grads: tuple[Tensor, Tensor, Tensor] = _gradients(query, key, vector, gradient)
        return grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return torch.func.vjp(plain_gradients, *ctx.saved_tensors)[1](outer)


@torch.library.custom_op("attention_lab::additive_logits", mutates_args=())
def _logits(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    kernels = usable_kernels(query, key, vector)
    if kernels is not None:
        return compiled_logits(kernels, query, key, vector)
    logits = query.new_empty(query.shape[0], query.shape[1], key.shape[1])
    for n, rows in _tiles(query, key):
        logits[n, rows] = plain_additive_logits(query[n, rows], key[n], vector[n])
    return logits


@torch.library.custom_op("attention_lab::additive_gradients", mutates_args=())
def _gradients(
    query: Tensor, key: Tensor, vector: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = usable_kernels(query, key, vector)
    if kernels is not None:
        return compiled_gradients(kernels, query, key, vector, gradient)
    grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(vector)
    for n, rows in _tiles(query, key):
        tile = plain_gradients(query[n, rows], key[n], vector[n], gradient[n, rows])
        grads[0][n, rows] = tile[0]
        grads[1][n] += tile[1]
        grads[2][n] += tile[2]
    return grads


def plain_gradients(
    query: Tensor, key: Tensor, vector: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for query, key and vector from that of the logits (N, L, S).

    Made of operations that can be differentiated again.
    """
    hidden = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))
    slope = gradient.unsqueeze(-1) * (1 - hidden * hidden)
    scale = vector.unsqueeze(-2)
    return (
        slope.sum(-2) * scale,
        slope.sum(-3) * scale,
        (gradient.unsqueeze(-1) * hidden).sum((-3, -2)),
    )


def _tiles(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of N and L whose hidden layers together have few elements."""
    count, length = query.shape[:2]
    row = max(1, key.shape[1] * key.shape[2])
    size = TILE.get(query.device.type, LARGE_TILE)
    rows = max(1, min(length, size // row))
    together = max(1, size // (rows * row)) if rows >= length else 1
    for n in range(0, count, together):
        for i in range(0, length, rows):
            yield slice(n, n + together), slice(i, i + rows)


@_logits.register_fake
def _(query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1], key.shape[1])


@_gradients.register_fake
def _(
    query: Tensor, key: Tensor, vector: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(query, memory_format=contiguous),
        torch.empty_like(key, memory_format=contiguous),
        torch.empty_like(vector, memory_format=contiguous),
    )


def vmap_rule(operator: Any) -> Any:
    """The rule of torch.func.vmap for an operator: the mapped dimension joins the first one."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        size = info.batch_size

        def joined(x: Any, at: int | None) -> Any:
            if not isinstance(x, Tensor):
                return x
            return (x.expand(size, *x.shape) if at is None else x.movedim(at, 0)).flatten(0, 1)

        results = operator(*map(joined, arguments, in_dims))
        if isinstance(results, Tensor):
            return results.unflatten(0, (size, results.shape[0] // size)), 0
        split = tuple(x.unflatten(0, (size, x.shape[0] // size)) for x in results)
        return split, (0,) * len(split)

    return rule


_logits.register_vmap(vmap_rule(_logits))
_gradients.register_vmap(vmap_rule(_gradients))
