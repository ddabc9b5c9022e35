"""Pseudo-inverses and random rotations of matrices."""

import torch
from torch import Tensor


def pseudo_inverse(matrix: Tensor, iterations: int) -> Tensor:
    """The inverse of each softmax map (…, m, m) by the iteration of Xiong et al. 2021, lemma 1."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    # Starts at Aᵀ / (‖A‖₁ ‖A‖∞) for each map; the rows of a softmax sum to 1, so ‖A‖∞ is 1.
    norm = matrix.sum(-2, keepdim=True).amax(-1, keepdim=True).clamp(min=1)
    z = matrix.mT / norm
    for _ in range(iterations):
        product = matrix @ z
        inner = 7 * identity - product
        z = z @ (13 * identity - product @ (15 * identity - product @ inner)) / 4
    return z


def random_rotation(size: int) -> Tensor:
    """A uniformly distributed orthogonal matrix (Mezzadri 2007): Q, with the signs of R undone."""
    q, r = torch.linalg.qr(torch.randn(size, size))
    return q * r.diagonal().sign()
