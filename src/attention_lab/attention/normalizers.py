"""Normalizers: logits (B, H, L, S) → weights over the keys.

The caller has already pushed the logits of forbidden keys to the lowest finite number, and sets
their weights to zero afterwards; a normalizer only knows logits.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Normalizer(nn.Module, ABC):
    """Turns one query's logits over its keys (the last dimension) into weights."""

    @abstractmethod
    def forward(self, logits: Tensor) -> Tensor:
        """Weights (B, H, L, S) of logits (B, H, L, S)."""


class Softmax(Normalizer):
    """weights = exp(logits) / Σ exp(logits) over the keys (Vaswani et al. 2017, eq. 1)."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)
