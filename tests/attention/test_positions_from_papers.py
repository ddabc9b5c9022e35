"""Positions against their papers, by loops over single places in float64 NumPy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.testing import assert_close

from attention_lab.attention import (
    ALiBi,
    Learned,
    Positions,
    Rotary,
    Shaw,
    Sinusoidal,
    T5Bias,
)

Array = NDArray[np.float64]


def placed(positions: Positions, query: Tensor, key: Tensor, start: int = 0) -> tuple[Array, Array]:
    query, key = positions.place(query, key, start)
    return query.detach().numpy(), key.detach().numpy()


def pair(queries: int = 4, keys: int = 6, width: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, queries, width).double(), torch.randn(2, 2, keys, width).double()


@pytest.mark.parametrize("width", [1, 5, 6])
def test_sinusoidal(width: int) -> None:
    """Vaswani et al. 2017, §3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(…)."""

    def encode(position: int) -> Array:
        angles = [position / 10000 ** (2 * (c // 2) / width) for c in range(width)]
        return np.array([math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)])

    query, key = pair(width=width)
    new_query, new_key = placed(Sinusoidal(4, width), query, key, start=3)
    for i in range(4):
        assert_close(new_query[:, :, i], query.numpy()[:, :, i] + encode(3 + i), atol=1e-6, rtol=0)
    for j in range(6):
        assert_close(new_key[:, :, j], key.numpy()[:, :, j] + encode(j), atol=1e-6, rtol=0)


@pytest.mark.parametrize("base", [10000.0, 50.0])
def test_rotary_is_multiplication_by_a_phase(base: float) -> None:
    """Su et al. 2021, eq. 12–15: component pairs, as complex numbers, times e^(i·m·θ)."""

    def turn(x: Array, position: int) -> Array:
        z = x[..., :3] + 1j * x[..., 3:]
        z = z * np.exp(1j * position * base ** (-2 * np.arange(3) / 6))
        return np.concatenate([z.real, z.imag], -1)

    query, key = pair()
    new_query, new_key = placed(Rotary(4, 6, base), query, key, start=7)
    for i in range(4):
        assert_close(new_query[:, :, i], turn(query.numpy()[:, :, i], 7 + i), atol=1e-5, rtol=0)
    for j in range(6):
        assert_close(new_key[:, :, j], turn(key.numpy()[:, :, j], j), atol=1e-5, rtol=0)


EIGHT = [2.0**-n for n in range(1, 9)]
SIXTEEN = [2.0 ** (-n / 2) for n in range(1, 17)]
SLOPES = {1: [2.0**-8], 2: [2.0**-4, 2.0**-8], 8: EIGHT, 12: EIGHT + SIXTEEN[::2][:4]}


@pytest.mark.parametrize("num_heads", SLOPES)
def test_alibi(num_heads: int) -> None:
    """Press et al. 2022, §3, and for 12 heads their published ``get_slopes``."""
    bias = ALiBi(num_heads, 2).bias(torch.randn(2, num_heads, 3, 2), 4, 9)
    assert bias is not None
    bias = bias.expand(2, num_heads, 3, 9)
    for h, i, j in np.ndindex(num_heads, 3, 9):
        expected = -SLOPES[num_heads][h] * abs(4 + i - j)
        assert bias[1, h, i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def t5_bucket(distance: int, buckets: int, max_distance: int) -> int:
    """T5's ``_relative_position_bucket`` (bidirectional), the floor of its logarithm exact.

    floor(n · log(r/e) / log(D/e)) is the largest b with (D/e)^b ≤ (r/e)^n.
    """
    half = buckets // 2
    bucket = half if distance > 0 else 0
    exact, far = half // 2, abs(distance)
    if far < exact:
        return bucket + far
    grown, n = 0, half - exact
    while grown < n - 1 and max_distance ** (grown + 1) * exact**n <= far**n * exact ** (grown + 1):
        grown += 1
    return bucket + exact + grown


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (16, 64), (4, 3)])
def test_t5(buckets: int, max_distance: int) -> None:
    """Raffel et al. 2020, §2.1, for distances −300 … 300."""
    positions = T5Bias(2, 3, num_buckets=buckets, max_distance=max_distance)
    table = torch.stack([torch.arange(buckets), -torch.arange(buckets)]).float()
    positions.table = nn.Parameter(table)
    row = positions.bias(torch.randn(1, 2, 1, 3), 300, 601)
    assert row is not None
    expected = [t5_bucket(j - 300, buckets, max_distance) for j in range(601)]
    actual = row.expand(1, 2, 1, 601)[0, :, 0].detach().int()
    assert actual[0].tolist() == expected
    assert actual[1].tolist() == [-bucket for bucket in expected]


def test_shaw() -> None:
    """Shaw et al. 2018, eq. 4–5: q (k + a[clip(j − i, D)])ᵀ / √d."""
    positions = Shaw(4, 6, max_distance=2).double()
    query, _ = pair()
    bias = positions.bias(query, 1, 7)
    assert bias is not None
    q, a = query.numpy(), positions.table.detach().numpy()
    for b, h, i, j in np.ndindex(2, 4, 4, 7):
        expected = q[b, h, i] @ a[max(-2, min(2, j - (1 + i))) + 2] / math.sqrt(6)
        assert bias[b, h, i, j].item() == pytest.approx(expected, abs=1e-12)


def test_learned() -> None:
    """Gehring et al. 2017, §3.1: x + p."""
    positions = Learned(4, 6, max_length=6).double()
    query, key = pair()
    new_query, new_key = placed(positions, query, key, start=2)
    table = positions.table.detach().numpy()
    assert_close(new_query, query.numpy() + table[2:6])
    assert_close(new_key, key.numpy() + table)
    for arguments in [(query, torch.cat([key, key], 2), 0), (query, key, 3)]:
        with pytest.raises(ValueError, match="6"):
            positions.place(*arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotary(1, 3), "even"),
        (lambda: Rotary(1, 4, base=1.0), "base"),
        (lambda: T5Bias(1, 4, num_buckets=6), "num_buckets"),
        (lambda: T5Bias(1, 4, num_buckets=32, max_distance=8), "max_distance"),
        (lambda: Shaw(1, 4, max_distance=0), "max_distance"),
        (lambda: Learned(1, 4, max_length=0), "max_length"),
        (lambda: Sinusoidal(0, 4), "heads"),
    ],
)
def test_bad_positions(make: Callable[[], Positions], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
