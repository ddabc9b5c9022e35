"""Scores: queries (B, H, L, E) and keys (B, H, S, E) → logits (B, H, L, S)."""

from attention_lab.attention.scores.additive import Additive
from attention_lab.attention.scores.base import DotProductFamily, Score
from attention_lab.attention.scores.dot_product import DotProduct, ScaledDotProduct
from attention_lab.attention.scores.general import General
from attention_lab.attention.scores.uniform import Uniform

__all__ = [
    "Additive",
    "DotProduct",
    "DotProductFamily",
    "General",
    "ScaledDotProduct",
    "Score",
    "Uniform",
]
