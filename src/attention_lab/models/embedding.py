"""Token embeddings with sinusoidal positions."""

import math

import torch
from torch import Tensor, nn


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal position encodings (length, width) (Vaswani et al. 2017, §3.5).

    Raises:
        ValueError: if ``width`` is odd: sines and cosines come in pairs.
    """
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, got {width}")
    position = torch.arange(length).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack([(position * frequency).sin(), (position * frequency).cos()], -1).flatten(1)


class SinusoidalPositions(nn.Module):
    """Adds sinusoidal positions to vectors (B, L, width); any length, nothing is learned."""

    table: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("table", sinusoids(256, width), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        length = vectors.shape[1]
        if length > len(self.table):
            grown = sinusoids(2 * length, self.table.shape[1])
            self.table = grown.to(self.table.device, self.table.dtype)
        return vectors + self.table[:length]


def token_embedding(vocabulary: int, width: int, padding: int) -> nn.Embedding:
    """An embedding whose vectors have unit length on average; the padding token's is zero."""
    embedding = nn.Embedding(vocabulary, width, padding_idx=padding)
    with torch.no_grad():
        embedding.weight.normal_(std=width**-0.5)
        embedding.weight[padding] = 0.0
    return embedding
