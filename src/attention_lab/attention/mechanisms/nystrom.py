"""Nyström attention: what all pairs would weigh, from what a few landmarks weigh."""

import torch
from torch import Tensor

from attention_lab.attention.backends import repeat_heads
from attention_lab.attention.capabilities import Capabilities
from attention_lab.attention.layer import AttentionLayer
from attention_lab.attention.masks import Mask, NoMask
from attention_lab.attention.precision import wide, without_autocast
from attention_lab.attention.validation import check_positive


class NystromAttention(AttentionLayer):
    """softmax(q k′ᵀ / √E) softmax(q′ k′ᵀ / √E)⁺ softmax(q′ kᵀ / √E) v (Xiong et al. 2021, §3.2).

    The landmarks q′ and k′ are means over segments of nearly equal length. Both are of the same
    positions, so that attention stays within one sequence, and every landmark mixes several of
    them, so that it cannot be causal. Segments are counted over the real positions alone: padding
    changes nothing, and with no more positions than landmarks this is softmax attention, as far as
    the iteration for the pseudo-inverse has come. Weights can be negative.

    Computed in at least single precision. The paper's convolution of the values, which skips the
    attention (ibid., §3.3), is left out.

    Args:
        embed_dim: width of the sequence, and of the output.
        kdim: as ``embed_dim``; None means the same.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; None means ``num_heads``.
        head_dim: size of one head; None means ``embed_dim / num_heads``.
        bias: whether the projections have one.
        gate: whether a sigmoid of the query gates the output.
        mask: the mechanism's own mask, on top of the one that each call brings.
        landmarks: largest number of segments, m.
        iterations: steps towards the pseudo-inverse (ibid., lemma 1).

    Raises:
        ValueError: if a value is out of range or sizes do not agree, or (when called) if there are
            not as many queries as keys or the mask is not one of padding.
    """

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        gate: bool = False,
        mask: Mask | None = None,
        landmarks: int = 32,
        iterations: int = 6,
    ) -> None:
        super().__init__(
            embed_dim,
            kdim,
            head_dim=head_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            bias=bias,
            gate=gate,
            mask=mask,
        )
        if self.kdim != embed_dim:
            raise ValueError(
                "Nyström attention stays within one sequence: kdim must be "
                f"embed_dim={embed_dim}, got {kdim}"
            )
        check_positive(landmarks=landmarks, iterations=iterations)
        _check_mask(self.mask)
        self.landmarks, self.iterations = landmarks, iterations

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            formula="softmax(q·k′) softmax(q′·k′)⁺ softmax(q′·k)",
            paper="Xiong et al. 2021",
            time="L·m·d + m³",
            memory="L·m",
            state="",
            any_mask=False,
            cross_attention=False,
            distribution=False,
            positional=True,
        )

    @without_autocast
    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | None,
        need_weights: bool,
        start: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        batch, num_heads, length, width = query.shape
        if key.shape[2] != length:
            raise ValueError(
                "Nyström attention stays within one sequence: it needs as many queries as keys, "
                f"got {length} and {key.shape[2]}"
            )
        mask = NoMask() if mask is None else mask
        _check_mask(mask)
        real = mask.dense(
            batch, num_heads, 1, length, query.device
        ).mT  # (B, H, L, 1), or 1 for B, H
        member = _segments(real, self.landmarks)
        used = member.any(-2, keepdim=True)  # (B, H, 1, m)
        groups = num_heads // key.shape[1]
        q, k, v = wide(query) * width**-0.5, *(repeat_heads(wide(x), groups) for x in (key, value))
        mean = member.mT / member.sum(-2).clamp(min=1).unsqueeze(-1).to(q.dtype)
        landmark_q, landmark_k = mean @ q, mean @ k
        from_all = _softmax(q @ landmark_k.mT, used)
        between = _softmax(landmark_q @ landmark_k.mT, used & used.mT)
        to_all = _softmax(landmark_q @ k.mT, used.mT & real.mT)
        inverse = _pseudo_inverse(between, self.iterations)
        output = (from_all @ (inverse @ (to_all @ v))).to(query.dtype)
        return output, (from_all @ inverse @ to_all).to(query.dtype) if need_weights else None


def _segments(real: Tensor, most: int) -> Tensor:
    """(…, L, most) bool: which segment each real position is in.

    Of n real positions, the one of rank r is in segment ⌊r·most / n⌋; with fewer positions than
    segments each has one of its own, and others stay empty.
    """
    total = real.sum(-2, keepdim=True)
    rank = real.cumsum(-2) - 1
    segment = rank * most // total.clamp(min=1)
    return real & (segment == torch.arange(most, device=real.device))


def _softmax(logits: Tensor, visible: Tensor) -> Tensor:
    """Weights over the last dimension; zeros, with zero gradient, where nothing is visible."""
    hidden = ~visible
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(hidden, lowest).softmax(-1).masked_fill(hidden, 0.0)


def _pseudo_inverse(matrix: Tensor, iterations: int) -> Tensor:
    """Xiong et al. 2021, lemma 1, for each sequence and head from an initial value of its own.

    That is Aᵀ / (‖A‖₁ ‖A‖∞); the rows of a softmax sum to 1, so ‖A‖∞ is 1, and ‖A‖₁ at least that.
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    largest_column = matrix.sum(-2, keepdim=True).amax(-1, keepdim=True).clamp(min=1)
    z = matrix.mT / largest_column
    for _ in range(iterations):
        product = matrix @ z
        inner = 7 * identity - product
        z = z @ (13 * identity - product @ (15 * identity - product @ inner)) / 4
    return z


def _check_mask(mask: Mask) -> None:
    if mask.depends_on_query:
        raise ValueError(
            "Nyström attention mixes positions before any query looks at them: it can hide "
            f"padding, but cannot use {mask}"
        )
