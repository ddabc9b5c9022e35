"""Luong's location score, which depends on the query and on the position of the key."""

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_positive
from attention_lab.attention.precision import wide, without_autocast
from attention_lab.attention.scores.base import Score


class Location(Score):
    """logits = (W q)_j for the key at position j (Luong et al. 2015, §3.1, "location").

    Args:
        num_heads: number of query heads.
        head_dim: width of one head.
        max_length: greatest number of keys.

    Raises:
        ValueError: if a size is below 1, or (when called) if there are more keys.
    """

    formula = "(W q)_j"
    paper = "Luong et al. 2015"
    projections = "values"
    positional = True

    def __init__(self, num_heads: int, head_dim: int, max_length: int = 512) -> None:
        super().__init__(num_heads, head_dim)
        check_positive(max_length=max_length)
        self.weight = nn.Parameter(torch.randn(num_heads, head_dim, max_length) * head_dim**-0.5)

    def check_lengths(self, keys: int) -> None:
        longest = self.weight.shape[2]
        if keys > longest:
            raise ValueError(f"{keys} keys are more than max_length={longest}")

    @without_autocast
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        self.check_lengths(key.shape[2])
        return wide(query) @ wide(self.weight[:, :, : key.shape[2]])
