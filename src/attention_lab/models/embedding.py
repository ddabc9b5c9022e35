"""Token embeddings with sinusoidal positions."""

import math

import torch
from torch import Tensor, nn


def sinusoids(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Sinusoidal position encodings (length, width) (Vaswani et al. 2017, §3.5).

    Raises:
        ValueError: if ``width`` is odd: sines and cosines come in pairs.
    """
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, got {width}")
    position = torch.arange(length, device=device).unsqueeze(1)
    even = torch.arange(0, width, 2, device=device)
    frequency = torch.exp(even * (-math.log(10_000.0) / width))
    return torch.stack([(position * frequency).sin(), (position * frequency).cos()], -1).flatten(1)


class SinusoidalPositions(nn.Module):
    """Adds sinusoidal positions to vectors (B, L, width); any length, nothing is learned.

    Args:
        width: of the vectors.
        amplitude: of the sinusoids; 1 suits vectors whose components have a variance near 1.
    """

    def __init__(self, width: int, amplitude: float = 1.0) -> None:
        super().__init__()
        sinusoids(0, width)  # raises if the width is odd
        self.amplitude = amplitude

    def forward(self, vectors: Tensor, start: int = 0) -> Tensor:
        # Not a buffer: one that no checkpoint holds has no values after to_empty.
        _, length, width = vectors.shape
        added = self.amplitude * sinusoids(start + length, width, vectors.device)[start:]
        is_mixed = torch.is_autocast_enabled(vectors.device.type)
        return vectors + (added if is_mixed else added.to(vectors.dtype))


class LearnedPositions(nn.Module):
    """Adds a learned vector for each position to vectors (B, L, width), up to a length.

    Args:
        width: of the vectors.
        length: number of positions.
        deviation: standard deviation of what they begin with.

    Raises:
        ValueError: when called or checked, if positions go beyond the length.
    """

    def __init__(self, width: int, length: int, deviation: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, width) * deviation)

    def check_length(self, length: int) -> None:
        """Raise ValueError if there are not so many positions."""
        if length > len(self.table):
            raise ValueError(
                f"{length} positions, but only {len(self.table)} were learned; "
                "positions=sinusoidal have no end"
            )

    def forward(self, vectors: Tensor, start: int = 0) -> Tensor:
        end = start + vectors.shape[1]
        self.check_length(end)
        return vectors + self.table[start:end]


class NoPositions(nn.Module):
    """Adds nothing: attention has positions of its own, or does without."""

    def forward(self, vectors: Tensor, start: int = 0) -> Tensor:
        return vectors


def position_embedding(kind: str, width: int, length: int, deviation: float) -> nn.Module:
    """What adds positions to embeddings.

    Args:
        kind: "learned" (up to a length), "sinusoidal" or "none".
        width: of the embeddings.
        length: greatest number of positions, for learned ones.
        deviation: of the components of positions. What is far smaller than the embeddings is hard
            to learn from, and what is far greater drowns them.

    Raises:
        ValueError: if there is no such kind.
    """
    if kind == "learned":
        return LearnedPositions(width, length, deviation)
    if kind == "sinusoidal":
        return SinusoidalPositions(width, amplitude=2**0.5 * deviation)
    if kind == "none":
        return NoPositions()
    raise ValueError(f"positions must be learned, sinusoidal or none, got {kind!r}")


def token_embedding(vocabulary: int, width: int, padding: int) -> nn.Embedding:
    """An embedding whose vectors have unit length on average; the padding token's is zero."""
    embedding = nn.Embedding(vocabulary, width, padding_idx=padding)
    with torch.no_grad():
        embedding.weight.normal_(std=width**-0.5)
        embedding.weight[padding] = 0.0
    return embedding
