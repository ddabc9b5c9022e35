"""Attention mechanisms in pure PyTorch: scores, normalizers, positions, masks, heads, backends.

Usable alone: nothing here knows Lightning, Hydra or Weights & Biases.

Example:
    >>> from attention_lab.attention import Causal, ScaledDotProduct, ScoredAttention, Softmax
    >>> layer = ScoredAttention(64, score=ScaledDotProduct, normalizer=Softmax, num_heads=8)
    >>> output, weights = layer(torch.randn(2, 10, 64), mask=Causal(), need_weights=True)
"""

from attention_lab.attention.ablation import head_ablated
from attention_lab.attention.backends.api import BACKENDS, Backend
from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.cache import Cache
from attention_lab.attention.feature_maps import EluPlusOne, FeatureMap, PositiveRandomFeatures
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.layer import AttentionLayer, AttentionOutput, LayerOptions
from attention_lab.attention.masks import (
    And,
    BlockSparse,
    Causal,
    Dense,
    Dilated,
    Documents,
    GlobalTokens,
    Mask,
    NoMask,
    Or,
    Padding,
    PrefixLM,
    SlidingWindow,
    render,
)
from attention_lab.attention.mechanisms.differential import DifferentialAttention
from attention_lab.attention.mechanisms.kernel import KernelAttention
from attention_lab.attention.mechanisms.linformer import Linformer
from attention_lab.attention.mechanisms.local import LocalAttention
from attention_lab.attention.mechanisms.nystrom import NystromAttention
from attention_lab.attention.mechanisms.scored import ScoredAttention
from attention_lab.attention.normalizers import (
    Entmax15,
    Normalizer,
    ReLU,
    Sigmoid,
    Softmax,
    SoftmaxPlusOne,
    Sparsemax,
    TemperedSoftmax,
    TopK,
)
from attention_lab.attention.positions import (
    ALiBi,
    Learned,
    NoPositions,
    Positions,
    Rotary,
    Shaw,
    Sinusoidal,
    T5Bias,
)
from attention_lab.attention.recording import (
    OutputError,
    attention_layers,
    record_attention,
    record_errors,
    record_logits,
    record_masks,
)
from attention_lab.attention.scores import (
    L2,
    Additive,
    Biaffine,
    Concat,
    Cosine,
    DotProduct,
    DotProductFamily,
    General,
    Location,
    ScaledDotProduct,
    Score,
    Uniform,
)

__all__ = [
    "BACKENDS",
    "L2",
    "ALiBi",
    "Additive",
    "And",
    "AttentionInputs",
    "AttentionLayer",
    "AttentionOutput",
    "AttentionSpec",
    "Backend",
    "Biaffine",
    "BlockSparse",
    "Cache",
    "Causal",
    "Concat",
    "Cosine",
    "Dense",
    "DifferentialAttention",
    "Dilated",
    "Documents",
    "DotProduct",
    "DotProductFamily",
    "EluPlusOne",
    "Entmax15",
    "FeatureMap",
    "General",
    "GlobalTokens",
    "KernelAttention",
    "LayerOptions",
    "Learned",
    "Linformer",
    "LocalAttention",
    "Location",
    "Mask",
    "MechanismInfo",
    "NoMask",
    "NoPositions",
    "Normalizer",
    "NystromAttention",
    "Or",
    "OutputError",
    "Padding",
    "Positions",
    "PositiveRandomFeatures",
    "PrefixLM",
    "ReLU",
    "Rotary",
    "ScaledDotProduct",
    "Score",
    "ScoredAttention",
    "Shaw",
    "Sigmoid",
    "Sinusoidal",
    "SlidingWindow",
    "Softmax",
    "SoftmaxPlusOne",
    "Sparsemax",
    "T5Bias",
    "TemperedSoftmax",
    "TopK",
    "Uniform",
    "attention_layers",
    "head_ablated",
    "record_attention",
    "record_errors",
    "record_logits",
    "record_masks",
    "render",
]
