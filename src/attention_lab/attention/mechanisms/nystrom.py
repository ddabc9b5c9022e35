"""Nyström attention: softmax attention approximated through a few landmarks."""

from typing import Unpack

import torch
from torch import Tensor

from attention_lab.argument_checks import check_positive
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.layer import AttentionLayer, LayerOptions
from attention_lab.attention.linear_algebra import pseudo_inverse
from attention_lab.attention.precision import masked_softmax, wide, without_autocast


class NystromAttention(AttentionLayer):
    """softmax(q k′ᵀ / √E) softmax(q′ k′ᵀ / √E)⁺ softmax(q′ kᵀ / √E) v (Xiong et al. 2021, §3.2).

    The landmarks q′ and k′ are means over segments of the unpadded positions, so this is non-causal
    self-attention. With no more positions than landmarks it equals softmax attention, up to the
    error of the iterated pseudo-inverse. The convolution of the values (ibid., §3.3) is left out.

    Args:
        embed_dim, kdim, layer: see :class:`AttentionLayer`.
        num_landmarks: largest number of segments, m.
        pinv_iterations: steps towards the pseudo-inverse (ibid., lemma 1).

    Raises:
        ValueError: if a value is out of range or sizes do not agree, or (when called) if there are
            not as many queries as keys or the mask is not one of padding.
    """

    info = MechanismInfo(
        formula="softmax(q·k′) softmax(q′·k′)⁺ softmax(q′·k)",
        paper="Xiong et al. 2021",
        time="L·m·d + m³",
        memory="L·m",
        symbols={"m": "num_landmarks"},
        causal=False,
        cross_attention=False,
        distribution=False,
        positional=True,
        contract_arguments={"num_landmarks": 3},
        implied_weights=True,
    )

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        num_landmarks: int = 32,
        pinv_iterations: int = 6,
        **layer: Unpack[LayerOptions],
    ) -> None:
        super().__init__(embed_dim, kdim, **layer)
        check_positive(num_landmarks=num_landmarks, pinv_iterations=pinv_iterations)
        self.num_landmarks, self.pinv_iterations = num_landmarks, pinv_iterations

    @without_autocast
    def attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        inputs, real = inputs.repeat_heads(), inputs.key_mask()  # (B, H, L, 1)
        q, k, v = (wide(x) for x in (inputs.query, inputs.key, inputs.value))
        if q.shape[2] != k.shape[2]:
            raise ValueError(f"needs as many queries as keys, got {q.shape[2]} and {k.shape[2]}")
        # The unpadded position of rank r among n is a member of segment ⌊r·m / n⌋.
        total, rank = real.sum(-2, keepdim=True), real.cumsum(-2) - 1
        segment = rank * self.num_landmarks // total.clamp(min=1)
        member = real & (segment == torch.arange(self.num_landmarks, device=inputs.device))
        used = member.any(-2, keepdim=True)  # (B, H, 1, m)
        q = q * self.head_dim**-0.5
        mean = member.mT / member.sum(-2).clamp(min=1).unsqueeze(-1).to(q.dtype)
        landmark_q, landmark_k = mean @ q, mean @ k
        from_all = masked_softmax(q @ landmark_k.mT, used)
        between = masked_softmax(landmark_q @ landmark_k.mT, used & used.mT)
        to_all = masked_softmax(landmark_q @ k.mT, used.mT & real.mT)
        inverse = pseudo_inverse(between, self.pinv_iterations)
        output = (from_all @ (inverse @ (to_all @ v))).to(inputs.query.dtype)
        return output, (from_all @ inverse @ to_all).to(
            output.dtype
        ) if inputs.need_weights else None
