"""Whole layers against the ``Attention`` of x-transformers, with its weights copied into ours.

It computes softmax in single precision, whatever its inputs are; hence the tolerance.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from x_transformers.x_transformers import (  # type: ignore[import-untyped]
    AlibiPositionalBias,
    Attention,
    RelativePositionBias,
    RotaryEmbedding,
)

from attention_lab.attention import (
    L2,
    ALiBi,
    Causal,
    Cosine,
    Padding,
    Rotary,
    ScaledDotProduct,
    ScoredAttention,
    Sigmoid,
    Softmax,
    SoftmaxPlusOne,
    T5Bias,
    TopK,
)

H, E, D, T = 4, 6, 10, 9  # heads, their width, the sequence's width and length

#: Options of theirs and of ours that mean the same, with parameters of the same layout.
SAME_FORM: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "multi-head": ({}, {}),
    "one key head": ({"one_kv_head": True}, {"num_kv_heads": 1}),
    "latent": ({"use_latent_kv": True, "dim_latent_kv": 5}, {"latent_dim": 5}),
    "gated": ({"gate_values": True}, {"gate": True}),
    "cosine": ({"qk_norm": True, "qk_norm_scale": 3}, {"score": partial(Cosine, gain=3)}),
    "l2": ({"l2_distance": True}, {"score": L2}),
    "top-k": ({"sparse_topk": 3}, {"normalizer": partial(TopK, 3)}),
    "softmax plus one": ({"add_zero_kv": True}, {"normalizer": SoftmaxPlusOne}),
}
BOTH_WAYS = pytest.mark.parametrize("causal", [False, True])


def pair(theirs: dict[str, Any], ours: dict[str, Any]) -> tuple[nn.Module, ScoredAttention]:
    """A layer of theirs, and one of ours with its projections, on the backend that others equal."""
    their = Attention(D, dim_head=E, heads=H, **theirs)
    for parameter in their.parameters():  # a gate starts from zeros
        nn.init.normal_(parameter, std=0.4)
    parts: dict[str, Any] = {"score": ScaledDotProduct, "normalizer": Softmax} | ours
    our = ScoredAttention(D, head_dim=E, num_heads=H, backend="eager", **parts)
    names = {
        "to_q": "query_projection",
        "to_k": "key_projection",
        "to_v": "value_projection",
        "to_out": "output_projection",
        "to_latent_kv": "latent_projection",
        "to_v_gate": "gate_projection",
    }
    with torch.no_grad():
        for one, other in names.items():
            if getattr(their, one) is not None:
                our.get_parameter(f"{other}.weight").copy_(getattr(their, one).weight)
        if our.gate_projection is not None:
            our.gate_projection.bias.zero_()
    return their.double(), our.double()


def check(theirs: nn.Module, ours: ScoredAttention, causal: bool, **added: Any) -> None:
    """The outputs, and their gradients to the sequence, of which one is padded on the right."""
    x = torch.randn(2, T, D, dtype=torch.float64, requires_grad=True)
    valid = torch.ones(2, T, dtype=torch.bool)
    valid[0, -3:] = False
    mask = Causal() & Padding(valid) if causal else Padding(valid)
    outputs = ours(x, mask=mask).output, theirs(x, context_mask=valid, causal=causal, **added)
    assert_close(*outputs, rtol=1e-5, atol=1e-5)
    direction = torch.randn(2, T, D, dtype=torch.float64)
    gradients = [torch.autograd.grad((o * direction).sum(), x)[0] for o in outputs]
    assert_close(*gradients, rtol=1e-4, atol=1e-4)


@BOTH_WAYS
@pytest.mark.parametrize("name", SAME_FORM)
def test_same_form(name: str, causal: bool) -> None:
    check(*pair(*SAME_FORM[name]), causal)


@BOTH_WAYS
def test_grouped_key_heads(causal: bool) -> None:
    """Theirs gives query heads h, h + 2, … one key head, ours neighbouring ones."""
    theirs, ours = pair({"kv_heads": 2}, {"num_kv_heads": 2})

    def neighbours(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (H // 2, 2, E)).transpose(0, 1).flatten(0, 2)

    with torch.no_grad():
        for projection, is_output in ((ours.query_projection, 0), (ours.output_projection, 1)):
            weight = projection.get_parameter("weight")
            weight.copy_(neighbours(weight.T).T if is_output else neighbours(weight))
    check(theirs, ours, causal)


@BOTH_WAYS
def test_talking_heads(causal: bool) -> None:
    """Theirs adds the talk before the softmax to the logits; after it, the talk is all."""
    options = {"pre_talking_heads": True, "post_talking_heads": True}
    theirs, ours = pair(options, {"talking_heads": True})
    assert ours.mixing is not None
    with torch.no_grad():
        talk = theirs.attend.pre_softmax_talking_heads.weight[:, :, 0, 0]
        ours.mixing.logits_map.copy_(torch.eye(H) + talk.T)
        ours.mixing.weights_map.copy_(theirs.attend.post_softmax_talking_heads.weight[:, :, 0, 0].T)
    check(theirs, ours, causal)


@BOTH_WAYS
def test_sigmoid(causal: bool) -> None:
    """Theirs leaves −log n, for n visible keys, to a bias."""
    theirs, ours = pair({"sigmoid": True}, {"normalizer": Sigmoid})
    real, rows = torch.tensor([[T - 3], [T]]), torch.arange(1, T + 1)
    seen = torch.minimum(real, rows) if causal else real.expand(2, T)
    bias = -seen.double().log().view(2, 1, T, 1).expand(2, H, T, T)
    check(theirs, ours, causal, attn_bias=bias)


@BOTH_WAYS
def test_alibi(causal: bool) -> None:
    theirs, ours = pair({}, {"positions": ALiBi})
    check(theirs, ours, causal, rel_pos=AlibiPositionalBias(H).double())


def test_alibi_for_six_heads() -> None:
    """Which are no power of two."""
    bias = ALiBi(6, E).bias(torch.zeros(1, 6, T, E), 0, T)
    assert_close(bias.expand(6, T, T), AlibiPositionalBias(6)(T, T))


@BOTH_WAYS
def test_t5(causal: bool) -> None:
    theirs, ours = pair({}, {"positions": partial(T5Bias, num_buckets=8, max_distance=6)})
    bias = RelativePositionBias(scale=1, num_buckets=8, max_distance=6, heads=H).double()
    with torch.no_grad():
        ours.positions.get_parameter("table").copy_(bias.relative_attention_bias.weight.T)
    check(theirs, ours, causal, rel_pos=bias)


@BOTH_WAYS
def test_rotary(causal: bool) -> None:
    """Theirs turns components 2i and 2i + 1 together, ours i and i + E/2."""
    theirs, ours = pair({}, {"positions": Rotary})
    with torch.no_grad():
        for projection in (ours.query_projection, ours.key_projection):
            weight = projection.get_parameter("weight")
            weight.copy_(weight.unflatten(0, (H, E // 2, 2)).transpose(1, 2).flatten(0, 2))
    check(theirs, ours, causal, rotary_pos_emb=RotaryEmbedding(E).double()(torch.arange(T)))
