"""PyTorch's transforms where the contract leaves something open: lengths, devices, gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import gradgradcheck
from torch.testing import assert_close

from attention_lab.attention import (
    Additive,
    ALiBi,
    AttentionInputs,
    AttentionLayer,
    Causal,
    EluPlusOne,
    KernelAttention,
    Mask,
    NystromAttention,
    Rotary,
    ScaledDotProduct,
    Score,
    ScoredAttention,
    Softmax,
)


def scored(**options: Any) -> AttentionLayer:
    return ScoredAttention(8, score=ScaledDotProduct, normalizer=Softmax, num_heads=2, **options)


class Masked(nn.Module):
    def __init__(self, layer: AttentionLayer, mask: Mask | None) -> None:
        super().__init__()
        self.layer, self.mask = layer, mask

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x, mask=self.mask).output
        return output


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "options", [{}, {"num_kv_heads": 1}, {"positions": Rotary}, {"positions": ALiBi}], ids=str
)
def test_a_traced_sdpa_layer_takes_any_length(options: dict[str, Any]) -> None:
    layer = Masked(scored(backend="sdpa", **options), Causal())
    traced = torch.jit.trace(layer, (torch.randn(2, 5, 8),))
    for shape in ((1, 3, 8), (3, 9, 8)):
        x = torch.randn(shape)
        assert_close(traced(x), layer(x))


@pytest.mark.parametrize("length", [2, 5, 40])
def test_an_exported_nystrom_layer_takes_fewer_and_more_positions_than_landmarks(
    length: int,
) -> None:
    layer = Masked(NystromAttention(8, num_heads=2, num_landmarks=4), None)
    sizes = {1: torch.export.Dim("length", min=2, max=512)}
    module = torch.export.export(layer, (torch.randn(1, 9, 8),), dynamic_shapes=(sizes,)).module()
    x = torch.randn(1, length, 8)
    assert_close(module(x), layer(x))


@pytest.mark.parametrize("mask", [None, Causal()])
def test_linear_attention_trains_under_aot_eager(mask: Mask | None) -> None:
    layer, x = (
        KernelAttention(8, feature_map=EluPlusOne, num_heads=2, num_kv_heads=1),
        torch.randn(2, 4, 8),
    )
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")

    def gradients(of: Callable[..., Any]) -> list[Tensor]:
        loss = of(x, mask=mask).output.square().sum()
        return list(torch.autograd.grad(loss, list(layer.parameters())))

    assert_close(gradients(compiled), gradients(layer))


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_second_derivatives_of_features_of_queries_below_zero(size: float) -> None:
    layer = KernelAttention(4, feature_map=EluPlusOne).double()
    query, key, value = (size * torch.randn(1, 1, n, 4, dtype=torch.float64) for n in (2, 3, 3))
    inputs = [x.requires_grad_() for x in (-query.abs(), key, value)]
    assert gradgradcheck(lambda *qkv: layer.attend(AttentionInputs(*qkv, None, False))[0], inputs)


@pytest.mark.parametrize(("score", "fast"), [(Additive, "fused"), (ScaledDotProduct, "sdpa")])
def test_forward_mode_needs_the_eager_backend(score: type[Score], fast: str) -> None:
    def make(backend: str) -> ScoredAttention:
        return ScoredAttention(4, score=score, normalizer=Softmax, backend=backend).double()

    x, direction = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    layer, fused = make("eager"), make(fast)
    _, ours = torch.func.jvp(lambda y: layer(y).output, (x,), (direction,))
    step = 1e-6 * direction
    assert_close(ours, (layer(x + step).output - layer(x - step).output) / 2e-6)
    with pytest.raises((RuntimeError, NotImplementedError), match="orward"):
        torch.func.jvp(lambda y: fused(y).output, (x,), (direction,))


@pytest.mark.parametrize("num_heads", [1, 2, 12])
def test_alibi_works_after_making_it_on_the_meta_device(num_heads: int) -> None:
    """Its slopes are no part of the state, so they must not be kept in memory that is not set."""
    made = ScoredAttention(
        24, score=ScaledDotProduct, normalizer=Softmax, num_heads=num_heads, positions=ALiBi
    )
    with torch.device("meta"):
        layer = ScoredAttention(
            24, score=ScaledDotProduct, normalizer=Softmax, num_heads=num_heads, positions=ALiBi
        )
    layer = layer.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.fill_(torch.nan)
    layer.load_state_dict(made.state_dict())
    x = torch.randn(2, 5, 24)
    assert torch.equal(layer(x).output, made(x).output)
