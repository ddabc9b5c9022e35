"""Learned maps across the heads of one layer (talking heads)."""

import torch
from torch import Tensor, nn

from attention_lab.attention.precision import without_autocast


class HeadMixing(nn.Module):
    """Talking heads: linear maps across the heads, of the logits and of the weights.

    Both are initialized to the identity, with which each head is independent (Shazeer et al. 2020,
    §3).

    Args:
        num_heads: number of query heads, H.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.logits_map = nn.Parameter(torch.eye(num_heads))
        self.weights_map = nn.Parameter(torch.eye(num_heads))

    @without_autocast
    def mix_logits(self, logits: Tensor) -> Tensor:
        """(B, H, L, S) → (B, H, L, S)."""
        return torch.einsum("bhls,hg->bgls", logits, self.logits_map.to(logits.dtype))

    @without_autocast
    def mix_weights(self, weights: Tensor) -> Tensor:
        """(B, H, L, S) → (B, H, L, S)."""
        return torch.einsum("bhls,hg->bgls", weights, self.weights_map.to(weights.dtype))
