"""Additive attention with a softmax, in memory linear in the lengths: operators around the kernels.

See ``additive_kernels.py`` for how they compute it. Only output, logarithms of the softmax's sums
and inputs are kept for the backward pass.
"""

from typing import Any

import torch
from torch import Tensor

from attention_lab.attention.backends.additive_logits import additive_logits, vmap_rule
from attention_lab.attention.backends.triton.dropout import dropout_factors, threshold_and_scale
from attention_lab.attention.inputs import repeat_heads
from attention_lab.attention.precision import masked_softmax, wide

#: Queries and keys of a tile, and the warps that compute it, by kernel: the largest that keep their
#: numbers in registers.
TILES = {"forward": (64, 32, 4), "key_gradients": (32, 64, 4), "query_gradients": (64, 32, 4)}
#: The same for values of more than 64 components.
WIDE_TILES = dict.fromkeys(TILES, (32, 32, 4))

#: ``low``, ``high`` and ``dropout`` of :func:`additive_attention`.
Options = tuple[int, int, float]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def additive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    visible: Tensor | None,
    seed: Tensor | None,
    low: int,
    high: int,
    dropout: float,
) -> Tensor:
    """Output (B, H, L, E) of softmax(vector · tanh(query + key)) · value over the visible keys.

    A query without visible keys gets zeros, with zero gradient. Works with torch.compile,
    torch.func.grad and vmap, and second derivatives, which need memory for all pairs.

    Args:
        query: (B, H, L, A), projected queries in single or half precision.
        key: (B, H, S, A), projected keys.
        value: (B, H_kv, S, E).
        vector: (B, H, A).
        visible: which keys each query may attend to, bool, (B, H, L, S) or 1 for any of them.
        seed: (B,) int64, of the random numbers of dropout; None means no dropout.
        low, high: keys are visible from ``low`` to ``high`` positions after the query's only.
        dropout: probability of dropping a weight, below 1.
    """
    if visible is not None:
        visible = visible.expand(query.shape[0], *visible.shape[1:])
    options = low, high, dropout
    output: Tensor = _AdditiveAttention.apply(query, key, value, vector, visible, seed, options)[0]
    return output


def plain_additive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    visible: Tensor | None,
    seed: Tensor | None,
    low: int,
    high: int,
    dropout: float,
) -> Tensor:
    """The formula, with logits of all pairs at once: see :func:`additive_attention`."""
    first = (x.flatten(0, 1) for x in (wide(query), wide(key), wide(vector)))
    logits = additive_logits(*first).unflatten(0, query.shape[:2])
    queries, keys = (torch.arange(x.shape[2], device=x.device) for x in (query, key))
    distance = keys - queries.unsqueeze(-1)
    seen = (distance >= low) & (distance <= high)
    seen = seen if visible is None else seen & visible
    weights = masked_softmax(logits, seen)
    if seed is not None:
        weights = weights * dropout_factors(seed, dropout, weights.shape[1:])
    return weights.to(value.dtype) @ repeat_heads(value, query.shape[1] // value.shape[1])


class _AdditiveAttention(torch.autograd.Function):
    # torch.func cannot differentiate operators of torch.library, but an autograd.Function of them.
    # torch.compile needs to know the number of its arguments.
    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        vector: Tensor,
        visible: Tensor | None,
        seed: Tensor | None,
        options: Options,
    ) -> tuple[Tensor, Tensor]:
        inputs = query, key, value, vector, visible, seed
        results: tuple[Tensor, Tensor] = _forward(*inputs, *options)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*output, *tensors)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        output, log_sum, *inputs = ctx.saved_tensors
        saved = output, log_sum, gradient, *inputs
        grads: Gradients = _AttentionGradients.apply(*saved, ctx.options)
        return *grads, None, None, None


class _AttentionGradients(torch.autograd.Function):
    """The gradients as a separate function: its gradients are the second derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        output: Tensor,
        log_sum: Tensor,
        gradient: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        vector: Tensor,
        visible: Tensor | None,
        seed: Tensor | None,
        options: Options,
    ) -> Gradients:
        inputs = query, key, value, vector, visible, seed
        grads: Gradients = _backward(output, log_sum, gradient, *inputs, *options)
        return grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        _, _, *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, visible, seed = ctx.saved_tensors
        rest: tuple[Any, ...] = visible, seed, *ctx.options

        def attend(*inputs: Any) -> Tensor:
            return plain_additive_attention(*inputs, *rest)

        def gradients(gradient: Tensor, *inputs: Tensor) -> Any:
            return torch.func.vjp(attend, *inputs)[1](gradient)

        # Output and sums are functions of the other inputs, which get the whole derivative.
        seconds = torch.func.vjp(gradients, *tensors)[1](outer)
        return None, None, *seconds, None, None, None


@torch.library.custom_op("attention_lab::additive_attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    visible: Tensor | None,
    seed: Tensor | None,
    low: int,
    high: int,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    output = value.new_empty(*query.shape[:3], value.shape[3])
    log_sum = query.new_empty(query.shape[:3], dtype=torch.float32)
    if output.numel():
        tensors = _prepared(query, key, value, vector)
        call = visible, seed, (low, high, dropout)
        _launch("forward", tensors, *call, (output, log_sum))
    return output, log_sum


@torch.library.custom_op("attention_lab::additive_attention_gradients", mutates_args=())
def _backward(
    output: Tensor,
    log_sum: Tensor,
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    visible: Tensor | None,
    seed: Tensor | None,
    low: int,
    high: int,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    single, places = torch.float32, (*key.shape[:2], key.shape[3], key.shape[2])
    grad_query = query.new_zeros(query.mT.shape, dtype=single)
    grad_key, grad_vector = key.new_zeros(2, *places, dtype=single)
    grad_value = value.new_zeros(*key.shape[:3], value.shape[3], dtype=single)
    if output.numel() and key.shape[2]:
        tensors = _prepared(query, key, value, vector)
        delta = (gradient.float() * output.float()).sum(-1)
        given = (gradient.to(value.dtype).contiguous(), log_sum, delta)
        shared = tensors, visible, seed, (low, high, dropout)
        _launch("key_gradients", *shared, (*given, grad_key, grad_vector, grad_value))
        _launch("query_gradients", *shared, (*given, grad_query))
    groups = query.shape[1] // value.shape[1]
    return (
        grad_query.mT.to(query.dtype).contiguous(),
        grad_key.mT.to(key.dtype).contiguous(),
        grad_value.unflatten(1, (-1, groups)).sum(2).to(value.dtype),
        grad_vector.sum(-1).to(vector.dtype),
    )


def _launch(
    name: str,
    tensors: tuple[Tensor, ...],
    visible: Tensor | None,
    seed: Tensor | None,
    options: Options,
    more: tuple[Tensor, ...],
) -> None:
    """Run a kernel on the :func:`_prepared` tensors and ``more``, which only this kernel takes."""
    from attention_lab.attention.backends.triton import additive_kernels as kernels

    query, key, value = tensors[:3]
    *band, dropout = options
    batch, heads, queries, size = query.shape
    keys, value_size = key.shape[2], value.shape[3]
    mask = None if visible is None else visible.expand(batch, heads, queries, keys)
    steps = (0, 0, 0, 0) if mask is None else mask.stride()
    visibility: Any = (None if mask is None else mask.view(torch.uint8), *steps, *band)
    seeds = None if seed is None else seed.contiguous()
    width = max(16, 1 << (value_size - 1).bit_length())
    tile_queries, tile_keys, warps = (TILES if width <= 64 else WIDE_TILES)[name]
    tiles = -(-keys // tile_keys) if name == "key_gradients" else -(-queries // tile_queries)
    with torch.cuda.device_of(query):  # Triton launches on the current device
        getattr(kernels, name)[(batch * heads * tiles,)](
            kernels.Inputs(*tensors),
            kernels.Visible(*visibility),
            kernels.Dropout(seeds, *threshold_and_scale(dropout)),
            kernels.Sizes(heads, heads // value.shape[1], queries, keys, size, value_size),
            *more,
            QUERIES=tile_queries,
            KEYS=tile_keys,
            VALUES=width,
            HARDWARE=_hardware(query),
            num_warps=warps,
            num_stages=1,
        )


def _hardware(x: Tensor) -> str:
    if not x.is_cuda:
        return "interpreter"
    return "nvidia" if torch.version.hip is None else "amd"


def _prepared(query: Tensor, key: Tensor, value: Tensor, vector: Tensor) -> tuple[Tensor, ...]:
    """The tensors that every kernel takes, as in ``additive_kernels.Inputs``."""
    inputs = query.contiguous(), key.contiguous(), value.contiguous()
    single = vector.float().contiguous()
    sides = _exponentials(query), _exponentials(key), _largest(query), _largest(key)
    return *inputs, single, single.sum(-1), *sides


def _exponentials(x: Tensor) -> Tensor:
    """exp(2x) in single precision, (B, H, A, L) from (B, H, L, A)."""
    return (2 * x.mT.float()).exp_().contiguous()


def _largest(x: Tensor) -> Tensor:
    """The largest absolute component of each position, (B, H, L); infinity if one is NaN."""
    return x.abs().amax(-1).float().nan_to_num(nan=torch.inf, posinf=torch.inf)


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return (
        value.new_empty(*query.shape[:3], value.shape[3]),
        query.new_empty(query.shape[:3], dtype=torch.float32),
    )


@_backward.register_fake
def _(output: Tensor, log_sum: Tensor, gradient: Tensor, *inputs: Any) -> Gradients:
    query, key, value, vector = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:4]
    )
    return query, key, value, vector


_forward.register_vmap(vmap_rule(_forward))
_backward.register_vmap(vmap_rule(_backward))
