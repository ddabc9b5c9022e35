"""Dropout of attention weights by a counter-based generator, as the kernels compute it."""

import torch
from torch import Tensor

LOW_32 = 0xFFFFFFFF


def threshold_and_scale(dropout: float) -> tuple[int, float]:
    """The least 24 random bits of a kept weight, and the factor of kept weights."""
    return int(dropout * (1 << 24)), 1 / (1 - dropout)


def dropout_factors(seed: Tensor, dropout: float, sizes: torch.Size) -> Tensor:
    """What dropout multiplies the weights with, (B, H, L, S): 0 or 1 / (1 − dropout).

    The random bits of a weight are Philox4x32-10 of its query, key and head (Salmon et al. 2011).

    Args:
        seed: (B,) int64.
        dropout: probability of dropping a weight.
        sizes: H, L and S.
    """
    threshold, scale = threshold_and_scale(dropout)
    heads, queries, keys = (torch.arange(size, device=seed.device) for size in sizes)
    seed = seed.view(-1, 1, 1, 1)
    zeros = (0 * seed).expand(-1, *sizes)
    counters = zeros + queries[:, None], zeros + keys, zeros + heads[:, None, None], zeros
    bits = _philox(counters, (seed & LOW_32, seed >> 32 & LOW_32)) >> 8
    return torch.where(bits >= threshold, scale, 0.0)


def _philox(counters: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> Tensor:
    """The first 32 bits of Philox4x32-10, in int64."""
    c0, c1, c2, c3 = counters
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2  # the bits of 64-bit products
        c0, c1 = (second >> 32 & LOW_32) ^ c1 ^ k0, second & LOW_32
        c2, c3 = (first >> 32 & LOW_32) ^ c3 ^ k1, first & LOW_32
        k0, k1 = k0 + 0x9E3779B9 & LOW_32, k1 + 0xBB67AE85 & LOW_32
    return c0
