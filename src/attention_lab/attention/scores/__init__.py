"""Scores: queries (B, H, L, E) and keys (B, H, S, E) → logits (B, H, L, S)."""

from attention_lab.attention.scores.additive import Additive
from attention_lab.attention.scores.base import DotProductFamily, Score
from attention_lab.attention.scores.concat import Concat
from attention_lab.attention.scores.cosine import Cosine
from attention_lab.attention.scores.dot_product import DotProduct, ScaledDotProduct
from attention_lab.attention.scores.general import Biaffine, General
from attention_lab.attention.scores.l2 import L2
from attention_lab.attention.scores.location import Location
from attention_lab.attention.scores.uniform import Uniform

__all__ = [
    "L2",
    "Additive",
    "Biaffine",
    "Concat",
    "Cosine",
    "DotProduct",
    "DotProductFamily",
    "General",
    "Location",
    "ScaledDotProduct",
    "Score",
    "Uniform",
]
