"""Token embeddings with sinusoidal positions."""

import math

import torch
from torch import Tensor, nn


def sinusoids(length: int, d_model: int, device: torch.device | None = None) -> Tensor:
    """Sinusoidal position encodings (length, d_model) (Vaswani et al. 2017, §3.5).

    Raises:
        ValueError: if ``d_model`` is odd: sines and cosines come in pairs.
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, got {d_model}")
    position = torch.arange(length, device=device).unsqueeze(1)
    even = torch.arange(0, d_model, 2, device=device)
    frequency = torch.exp(even * (-math.log(10_000.0) / d_model))
    return torch.stack([(position * frequency).sin(), (position * frequency).cos()], -1).flatten(1)


class SinusoidalPositions(nn.Module):
    """Adds sinusoidal positions to vectors (B, L, d_model); any length, nothing is learned.

    Args:
        d_model: of the vectors.
        amplitude: of the sinusoids; 1 suits vectors whose components have a variance near 1.
    """

    def __init__(self, d_model: int, amplitude: float = 1.0) -> None:
        super().__init__()
        sinusoids(0, d_model)  # raises if d_model is odd
        self.amplitude = amplitude

    def forward(self, vectors: Tensor, start: int = 0) -> Tensor:
        # Not a buffer: one that no checkpoint holds has no values after to_empty.
        _, length, d_model = vectors.shape
        added = self.amplitude * sinusoids(start + length, d_model, vectors.device)[start:]
        is_mixed = torch.is_autocast_enabled(vectors.device.type)
        return vectors + (added if is_mixed else added.to(vectors.dtype))


class LearnedPositions(nn.Module):
    """Adds a learned vector for each position to vectors (B, L, d_model), up to a length.

    Args:
        d_model: of the vectors.
        length: number of positions.
        deviation: standard deviation of what they begin with.

    Raises:
        ValueError: when called or checked, if positions go beyond the length.
    """

    def __init__(self, d_model: int, length: int, deviation: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, d_model) * deviation)

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


def position_embedding(kind: str, d_model: int, length: int, deviation: float) -> nn.Module:
    """What adds positions to embeddings.

    Args:
        kind: "learned" (up to a length), "sinusoidal" or "none".
        d_model: of the embeddings.
        length: greatest number of positions, for learned ones.
        deviation: of the components of positions. What is far smaller than the embeddings is hard
            to learn from, and what is far greater drowns them.

    Raises:
        ValueError: if there is no such kind.
    """
    if kind == "learned":
        return LearnedPositions(d_model, length, deviation)
    if kind == "sinusoidal":
        return SinusoidalPositions(d_model, amplitude=2**0.5 * deviation)
    if kind == "none":
        return NoPositions()
    raise ValueError(f"positions must be learned, sinusoidal or none, got {kind!r}")


def token_embedding(vocabulary: int, d_model: int, padding: int) -> nn.Embedding:
    """An embedding whose vectors have unit length on average; the padding token's is zero."""
    embedding = nn.Embedding(vocabulary, d_model, padding_idx=padding)
    with torch.no_grad():
        embedding.weight.normal_(std=d_model**-0.5)
        embedding.weight[padding] = 0.0
    return embedding
