"""Attention mechanisms in pure PyTorch: scores, normalizers, masks, heads, backends.

Usable alone: nothing here knows Lightning, Hydra or Weights & Biases.

Example:
    >>> from attention_lab.attention import Causal, ScaledDotProduct, ScoredAttention, Softmax
    >>> layer = ScoredAttention(64, score=ScaledDotProduct, normalizer=Softmax, heads=8)
    >>> output, weights = layer(torch.randn(2, 10, 64), mask=Causal(), need_weights=True)
"""

from attention_lab.attention.backends import BACKENDS, Backend
from attention_lab.attention.layer import AttentionLayer, AttentionOutput
from attention_lab.attention.masks import Both, Causal, Either, Mask, Padding
from attention_lab.attention.normalizers import Normalizer, Softmax
from attention_lab.attention.observation import attention_layers, observe
from attention_lab.attention.scored import ScoredAttention
from attention_lab.attention.scores import (
    Additive,
    DotProduct,
    DotProductFamily,
    General,
    ScaledDotProduct,
    Score,
    Uniform,
)

__all__ = [
    "BACKENDS",
    "Additive",
    "AttentionLayer",
    "AttentionOutput",
    "Backend",
    "Both",
    "Causal",
    "DotProduct",
    "DotProductFamily",
    "Either",
    "General",
    "Mask",
    "Normalizer",
    "Padding",
    "ScaledDotProduct",
    "Score",
    "ScoredAttention",
    "Softmax",
    "Uniform",
    "attention_layers",
    "observe",
]
