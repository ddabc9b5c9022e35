"""Additive attention with a softmax, in tiles of queries and keys: the forward pass and gradients.

A logit is Σ w tanh(x + y) = Σ w − 2 Σ w r with r = 1 / (1 + exp(2x) exp(2y)). The exponentials are
computed once for each position, and two terms share a reciprocal: w1/x1 + w2/x2 = (w1 x2 + w2 x1) /
(x1 x2). Tiles in which an exponential could overflow compute exp(2 (x + y)) for each pair instead.

The softmax is computed online, as in flash attention (Dao et al. 2022), so that no tensor of all
pairs exists. The gradients compute the logits again. One kernel does so for tiles of keys, another
for tiles of queries: no two programs add to the same number, so results are deterministic.

Earlier kernels: ``attn_score`` of NVIDIA's GNMT (2019) computes logits and recomputes them for
their gradients, without softmax, masks or heads. FLB-Transformer (2026) has a Triton kernel of one
tile.

In Triton, a name in capitals is a constant of the compiled code, and a tile is a tensor (rows,
columns) that the threads of one program share.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

#: Up to this size of x + y, the product of two denominators is a finite number with a normal
#: reciprocal.
LARGEST = tl.constexpr(20.0)


class Inputs(NamedTuple):
    """Contiguous tensors of B batches, H heads, L queries, S keys, hidden size A, value size E."""

    query: Any  #: (B, H, L, A)
    key: Any  #: (B, H, S, A)
    value: Any  #: (B, H / groups, S, E)
    vector: Any  #: (B, H, A), float32
    vector_sum: Any  #: (B, H), float32
    query_exp: Any  #: exp(2 query), (B, H, A, L), float32
    key_exp: Any  #: exp(2 key), (B, H, A, S), float32
    query_size: Any  #: the largest absolute component, infinity for NaN, (B, H, L), float32
    key_size: Any  #: (B, H, S), float32


class Visible(NamedTuple):
    """Keys from ``low`` to ``high`` positions after the query are visible if ``mask`` allows it."""

    mask: Any  #: uint8, addressed by the steps; None allows all
    step_b: Any
    step_h: Any
    step_l: Any
    step_s: Any
    low: Any
    high: Any


class Dropout(NamedTuple):
    """A weight is kept, times ``scale``, if its random 24 bits are at least ``threshold``."""

    seed: Any  #: int64, (B,); None drops nothing
    threshold: Any
    scale: Any


class Sizes(NamedTuple):
    """H, the query heads that share one value head, L, S, A and E."""

    heads: Any
    groups: Any
    queries: Any
    keys: Any
    hidden_size: Any
    value_size: Any


class Side(NamedTuple):
    """The queries or the keys of a tile."""

    at: Any
    length: Any
    hidden: Any
    inputs: Any
    exponentials: Any
    largest: Any


@triton.jit
def _side(inputs, exponentials, input_size, length, hidden, unit, start, BLOCK: tl.constexpr):
    """BLOCK positions of the queries or the keys of one batch and head."""
    at = start + tl.arange(0, BLOCK)
    sizes = tl.load(input_size + unit * length + at, mask=at < length, other=0.0)
    first = unit * length * hidden
    return Side(at, length, hidden, inputs + first, exponentials + first, tl.max(sizes, axis=0))


@triton.jit
def _queries(inputs, sizes, unit, start, BLOCK: tl.constexpr):
    return _side(
        inputs.query, inputs.query_exp, inputs.query_size, sizes.queries, sizes.hidden_size,
        unit, start, BLOCK,
    )  # fmt: skip


@triton.jit
def _keys(inputs, sizes, unit, start, BLOCK: tl.constexpr):
    return _side(
        inputs.key, inputs.key_exp, inputs.key_size, sizes.keys, sizes.hidden_size,
        unit, start, BLOCK,
    )  # fmt: skip


@triton.jit
def _is_visible(visible, sizes, unit, queries, keys):
    """Whether keys are visible, for positions that broadcast to a tile."""
    distance = keys - queries
    seen = (queries < sizes.queries) & (keys < sizes.keys)
    seen &= (distance >= visible.low) & (distance <= visible.high)
    if visible.mask is not None:
        first = visible.mask + unit // sizes.heads * visible.step_b
        first += unit % sizes.heads * visible.step_h
        places = queries.to(tl.int64) * visible.step_l + keys.to(tl.int64) * visible.step_s
        seen &= tl.load(first + places, mask=seen, other=0) != 0
    return seen


@triton.jit
def _dropout_factors(dropout, sizes, unit, queries, keys):
    """What dropout multiplies the weights of a tile with, the same in each pass."""
    if dropout.seed is not None:
        seed = tl.load(dropout.seed + unit // sizes.heads)
        zeros = (queries * 0 + keys * 0).to(tl.int32)
        head = (unit % sizes.heads).to(tl.int32)
        random, _, _, _ = tl.philox(seed, zeros + queries, zeros + keys, zeros + head, zeros)
        factors = tl.where((random >> 8).to(tl.int32) >= dropout.threshold, dropout.scale, 0.0)
    else:
        factors = 1.0
    return factors


@triton.jit
def _load_rows(pointer, positions, length, size, BLOCK: tl.constexpr):
    """(positions, BLOCK) of a tensor (length, size), with zeros outside."""
    columns = tl.arange(0, BLOCK)
    inside = (positions[:, None] < length) & (columns[None, :] < size)
    return tl.load(pointer + positions[:, None] * size + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store_rows(pointer, rows, positions, length, size, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    inside = (positions[:, None] < length) & (columns[None, :] < size)
    places = pointer + positions[:, None] * size + columns[None, :]
    tl.store(places, rows.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _is_inside(side, a):
    """Whether positions have a hidden dimension ``a``."""
    # Not a & of a tile and a scalar, which is no mask in the interpreter of Triton 3.9.
    return side.at < tl.where(a < side.hidden, side.length, 0)


@triton.jit
def _exponentials(side, a):
    """In hidden dimension ``a``; zeros outside, for which a denominator is 1."""
    places = side.exponentials + a * side.length + side.at
    return tl.load(places, mask=_is_inside(side, a), other=0.0)


@triton.jit
def _denominators(rows, columns, a):
    """1 + exp(2 (x + y)) in hidden dimension ``a``, from the exponentials."""
    return 1.0 + _exponentials(rows, a)[:, None] * _exponentials(columns, a)[None, :]


@triton.jit
def _large_inputs(side, a):
    places = side.inputs + side.at * side.hidden + a
    return tl.load(places, mask=side.at < side.length, other=0.0).to(tl.float32)


@triton.jit
def _large_denominators(rows, columns, a):
    """1 + exp(2 (x + y)) in hidden dimension ``a``, for inputs of any size."""
    return 1.0 + tl.exp(
        2.0 * (_large_inputs(rows, a)[:, None] + _large_inputs(columns, a)[None, :])
    )


@triton.jit
def _reciprocal(x, HARDWARE: tl.constexpr):
    if HARDWARE == "nvidia":  # one instruction, with an error of one unit in the last place
        y = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = 1.0 / x
    return y


@triton.jit
def _weights_of_two(vector, a, hidden):
    """Elements ``a`` and ``a + 1`` of the vector; zero after its end."""
    return tl.load(vector + a), tl.load(vector + a + 1, mask=a + 1 < hidden, other=0.0)


@triton.jit
def _logits(
    rows, columns, vector, vector_sum,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HARDWARE: tl.constexpr,
):  # fmt: skip
    """Logits of a tile (ROWS, COLUMNS)."""
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    if rows.largest + columns.largest > LARGEST:
        for a in range(rows.hidden):
            x = _large_denominators(rows, columns, a)
            sums += tl.load(vector + a) * _reciprocal(x, HARDWARE)
    else:
        for a in range(0, rows.hidden, 2):
            x_1, x_2 = _denominators(rows, columns, a), _denominators(rows, columns, a + 1)
            w_1, w_2 = _weights_of_two(vector, a, rows.hidden)
            sums += (w_1 * x_2 + w_2 * x_1) * _reciprocal(x_1 * x_2, HARDWARE)
    return vector_sum - 2.0 * sums


@triton.jit
def _add_slopes(grad, grad_vector, grad_logits, sums, reciprocals, weight, rows, a):
    """Add a tile's part of the gradients for its rows in one hidden dimension.

    They are w (Σ grad − Σ grad tanh²), summed over the columns. ``sums`` is Σ grad.
    """
    tanh = 1.0 - 2.0 * reciprocals
    product = grad_logits * tanh
    places = a * rows.length + rows.at
    inside = _is_inside(rows, a)
    slopes = weight * (sums - tl.sum(product * tanh, axis=1))
    # Only this program adds here. Atomic additions keep its threads from overtaking each other.
    tl.atomic_add(grad + places, slopes, mask=inside, sem="relaxed")
    if grad_vector is not None:
        tl.atomic_add(grad_vector + places, tl.sum(product, axis=1), mask=inside, sem="relaxed")


@triton.jit
def _add_gradients(
    grad, grad_vector, grad_logits, sums, rows, columns, vector, HARDWARE: tl.constexpr
):  # fmt: skip
    """Add a tile's part of the gradients for its rows, (A, rows), and for the vector."""
    if rows.largest + columns.largest > LARGEST:
        for a in range(rows.hidden):
            r = _reciprocal(_large_denominators(rows, columns, a), HARDWARE)
            r = tl.where(grad_logits == 0.0, 0.5, r)  # a hidden key may be NaN
            w = tl.load(vector + a)
            _add_slopes(grad, grad_vector, grad_logits, sums, r, w, rows, a)
    else:
        for a in range(0, rows.hidden, 2):
            x_1, x_2 = _denominators(rows, columns, a), _denominators(rows, columns, a + 1)
            w_1, w_2 = _weights_of_two(vector, a, rows.hidden)
            r = _reciprocal(x_1 * x_2, HARDWARE)
            _add_slopes(grad, grad_vector, grad_logits, sums, r * x_2, w_1, rows, a)
            _add_slopes(grad, grad_vector, grad_logits, sums, r * x_1, w_2, rows, a + 1)


@triton.jit
def _dot(x, y, HARDWARE: tl.constexpr):
    """X @ y, added up in float32."""
    if HARDWARE == "interpreter":  # which multiplies the bits of bfloat16
        x, y = x.to(tl.float32), y.to(tl.float32)
    # Three products of tensor cores give single precision, faster than its own instructions.
    PRECISION: tl.constexpr = "tf32x3" if HARDWARE == "nvidia" else "ieee"
    return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def _weighted_values(weights, value, seen, HARDWARE: tl.constexpr):
    """Weights · value; NaN and infinite values reach only queries to which they are visible."""
    is_finite = tl.abs(value.to(tl.float32)) < float("inf")
    weights = weights.to(value.dtype)
    output = _dot(weights, tl.where(is_finite, value, 0.0), HARDWARE)
    if tl.min(tl.min(is_finite.to(tl.int32), axis=1), axis=0) == 0:
        is_reached = _dot(seen.to(tl.float32), 1.0 - is_finite.to(tl.float32), HARDWARE) > 0.0
        output = tl.where(is_reached, _dot(weights, value, HARDWARE), output)
    return output


@triton.jit
def forward(
    inputs, visible, dropout, sizes, output, log_sum,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr, HARDWARE: tl.constexpr,
):  # fmt: skip
    """Output (B, H, L, E), and the logarithm of each query's Σ exp(logit), (B, H, L)."""
    tiles = tl.cdiv(sizes.queries, QUERIES)
    unit = (tl.program_id(0) // tiles).to(tl.int64)  # of B × H
    start = tl.program_id(0) % tiles * QUERIES
    queries = _queries(inputs, sizes, unit, start, QUERIES)
    vector, vector_sum = inputs.vector + unit * sizes.hidden_size, tl.load(inputs.vector_sum + unit)
    value = inputs.value + unit // sizes.groups * sizes.keys * sizes.value_size
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    result = tl.zeros((QUERIES, VALUES), tl.float32)
    first = tl.maximum(start + visible.low, 0) // KEYS * KEYS
    for j in range(first, tl.minimum(start + QUERIES + visible.high, sizes.keys), KEYS):
        keys = _keys(inputs, sizes, unit, j, KEYS)
        seen = _is_visible(visible, sizes, unit, queries.at[:, None], keys.at[None, :])
        logits = _logits(queries, keys, vector, vector_sum, QUERIES, KEYS, HARDWARE)
        logits = tl.where(seen, logits, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(logits, axis=1))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # no visible key so far
        weights, scale = tl.exp(logits - shift[:, None]), tl.exp(largest - shift)
        total = total * scale + tl.sum(weights, axis=1)
        values = _load_rows(value, keys.at, sizes.keys, sizes.value_size, VALUES)
        weights *= _dropout_factors(dropout, sizes, unit, queries.at[:, None], keys.at[None, :])
        result = result * scale[:, None] + _weighted_values(weights, values, seen, HARDWARE)
        largest = new_largest
    has_keys = total != 0.0
    result = tl.where(has_keys[:, None], result / tl.where(has_keys, total, 1.0)[:, None], 0.0)
    output += unit * sizes.queries * sizes.value_size
    _store_rows(output, result, queries.at, sizes.queries, sizes.value_size, VALUES)
    # Infinity makes the weights of a query without keys 0 when gradients are computed.
    log_sums = tl.where(has_keys, largest + tl.log(total), float("inf"))
    places = log_sum + unit * sizes.queries + queries.at
    tl.store(places, log_sums, mask=queries.at < sizes.queries)


@triton.jit
def _load_saved(log_sum, delta, queries, unit):
    """Each query's logarithm of Σ exp(logit), and Σ output · its gradient."""
    places, inside = unit * queries.length + queries.at, queries.at < queries.length
    log_sums = tl.load(log_sum + places, mask=inside, other=float("inf"))
    return log_sums, tl.load(delta + places, mask=inside, other=0.0)


@triton.jit
def key_gradients(
    inputs, visible, dropout, sizes, grad_output, log_sum, delta, grad_key, grad_vector, grad_value,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr, HARDWARE: tl.constexpr,
):  # fmt: skip
    """Gradients for keys (B, H, A, S), values (B, H, S, E), and the vector (B, H, A, S).

    Those for values are of each query head, those for the vector of each key. A tile has a row for
    each key.
    """
    tiles = tl.cdiv(sizes.keys, KEYS)
    unit = (tl.program_id(0) // tiles).to(tl.int64)
    start = tl.program_id(0) % tiles * KEYS
    keys = _keys(inputs, sizes, unit, start, KEYS)
    vector, vector_sum = inputs.vector + unit * sizes.hidden_size, tl.load(inputs.vector_sum + unit)
    value = inputs.value + unit // sizes.groups * sizes.keys * sizes.value_size
    values = _load_rows(value, keys.at, sizes.keys, sizes.value_size, VALUES)
    grad_output += unit * sizes.queries * sizes.value_size
    grad_key += unit * sizes.keys * sizes.hidden_size
    grad_vector += unit * sizes.keys * sizes.hidden_size
    grad_values = tl.zeros((KEYS, VALUES), tl.float32)
    first = tl.maximum(start - visible.high, 0) // QUERIES * QUERIES
    for i in range(first, tl.minimum(start + KEYS - visible.low, sizes.queries), QUERIES):
        queries = _queries(inputs, sizes, unit, i, QUERIES)
        seen = _is_visible(visible, sizes, unit, queries.at[None, :], keys.at[:, None])
        log_sums, deltas = _load_saved(log_sum, delta, queries, unit)
        logits = _logits(keys, queries, vector, vector_sum, KEYS, QUERIES, HARDWARE)
        weights = tl.where(seen, tl.exp(logits - log_sums[None, :]), 0.0)
        grads = _load_rows(grad_output, queries.at, sizes.queries, sizes.value_size, VALUES)
        factors = _dropout_factors(dropout, sizes, unit, queries.at[None, :], keys.at[:, None])
        grad_values += _dot((weights * factors).to(grads.dtype), grads, HARDWARE)
        grad_weights = _dot(values, tl.trans(grads), HARDWARE) * factors
        grad_logits = tl.where(seen, weights * (grad_weights - deltas[None, :]), 0.0)
        sums = tl.sum(grad_logits, axis=1)
        _add_gradients(grad_key, grad_vector, grad_logits, sums, keys, queries, vector, HARDWARE)
    grad_value += unit * sizes.keys * sizes.value_size
    _store_rows(grad_value, grad_values, keys.at, sizes.keys, sizes.value_size, VALUES)


@triton.jit
def query_gradients(
    inputs, visible, dropout, sizes, grad_output, log_sum, delta, grad_query,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr, HARDWARE: tl.constexpr,
):  # fmt: skip
    """Gradients for queries (B, H, A, L)."""
    tiles = tl.cdiv(sizes.queries, QUERIES)
    unit = (tl.program_id(0) // tiles).to(tl.int64)
    start = tl.program_id(0) % tiles * QUERIES
    queries = _queries(inputs, sizes, unit, start, QUERIES)
    vector, vector_sum = inputs.vector + unit * sizes.hidden_size, tl.load(inputs.vector_sum + unit)
    value = inputs.value + unit // sizes.groups * sizes.keys * sizes.value_size
    grad_output += unit * sizes.queries * sizes.value_size
    grad_query += unit * sizes.queries * sizes.hidden_size
    grads = _load_rows(grad_output, queries.at, sizes.queries, sizes.value_size, VALUES)
    log_sums, deltas = _load_saved(log_sum, delta, queries, unit)
    first = tl.maximum(start + visible.low, 0) // KEYS * KEYS
    for j in range(first, tl.minimum(start + QUERIES + visible.high, sizes.keys), KEYS):
        keys = _keys(inputs, sizes, unit, j, KEYS)
        seen = _is_visible(visible, sizes, unit, queries.at[:, None], keys.at[None, :])
        logits = _logits(queries, keys, vector, vector_sum, QUERIES, KEYS, HARDWARE)
        weights = tl.where(seen, tl.exp(logits - log_sums[:, None]), 0.0)
        values = _load_rows(value, keys.at, sizes.keys, sizes.value_size, VALUES)
        factors = _dropout_factors(dropout, sizes, unit, queries.at[:, None], keys.at[None, :])
        grad_weights = _dot(grads, tl.trans(values), HARDWARE) * factors
        grad_logits = tl.where(seen, weights * (grad_weights - deltas[:, None]), 0.0)
        # The gradients for the logits of one query sum to 0 behind a softmax.
        _add_gradients(grad_query, None, grad_logits, 0.0, queries, keys, vector, HARDWARE)
