"""Token embeddings, and sinusoidal and learned position embeddings.

Position embeddings count from ``start``, or take ``positions`` (B, L) int64, each below L.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention.precision import is_autocast_enabled


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
    """Adds sinusoidal positions to vectors (B, L, d_model); any length, no parameters.

    Args:
        d_model: width of the vectors.
        amplitude: of the sinusoids; 1 suits vectors whose components have a variance near 1.
    """

    def __init__(self, d_model: int, amplitude: float = 1.0) -> None:
        super().__init__()
        sinusoids(0, d_model)  # raises if d_model is odd
        self.amplitude = amplitude

    def forward(self, vectors: Tensor, start: int = 0, positions: Tensor | None = None) -> Tensor:
        # Not a buffer: a non-persistent buffer has no values after to_empty.
        _, length, d_model = vectors.shape
        added = self.amplitude * sinusoids(start + length, d_model, vectors.device)[start:]
        if positions is not None:
            added = added[positions]
        is_mixed = is_autocast_enabled(vectors.device.type)
        return vectors + (added if is_mixed else added.to(vectors.dtype))


class LearnedPositions(nn.Module):
    """Adds a learned vector for each position to vectors (B, L, d_model).

    Args:
        d_model: width of the vectors.
        max_length: greatest number of positions.
        std: standard deviation of the initial values.

    Raises:
        ValueError: when called or checked, if there are more positions than ``max_length``.
    """

    def __init__(self, d_model: int, max_length: int, std: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(max_length, d_model) * std)

    def check_length(self, length: int) -> None:
        """Raise ValueError if ``length`` exceeds the number of positions."""
        if length > len(self.table):
            raise ValueError(
                f"{length} positions, but only {len(self.table)} were learned; "
                "positions=sinusoidal has no limit"
            )

    def forward(self, vectors: Tensor, start: int = 0, positions: Tensor | None = None) -> Tensor:
        end = start + vectors.shape[1]
        self.check_length(end)
        if positions is not None:
            return vectors + F.embedding(positions, self.table)
        return vectors + self.table[start:end]


class NoPositions(nn.Module):
    """Adds nothing, for mechanisms with positions of their own, or without positions."""

    def forward(self, vectors: Tensor, start: int = 0, positions: Tensor | None = None) -> Tensor:
        return vectors


def position_embedding(kind: str, d_model: int, max_length: int, std: float) -> nn.Module:
    """The module that adds positions to embeddings.

    Args:
        kind: "learned", "sinusoidal" or "none".
        d_model: width of the embeddings.
        max_length: greatest number of positions, for "learned" only.
        std: standard deviation of the components, which should be close to that of the embeddings.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind == "learned":
        return LearnedPositions(d_model, max_length, std)
    if kind == "sinusoidal":
        return SinusoidalPositions(d_model, amplitude=2**0.5 * std)
    if kind == "none":
        return NoPositions()
    raise ValueError(f"positions must be learned, sinusoidal or none, got {kind!r}")


def token_embedding(vocab_size: int, d_model: int, padding_idx: int) -> nn.Embedding:
    """An embedding whose vectors have unit length on average; that of padding is zero."""
    embedding = nn.Embedding(vocab_size, d_model, padding_idx=padding_idx)
    with torch.no_grad():
        embedding.weight.normal_(std=d_model**-0.5)
        embedding.weight[padding_idx] = 0.0
    return embedding
