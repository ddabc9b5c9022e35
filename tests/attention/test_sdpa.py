"""The backend sdpa: which of PyTorch's kernels it reaches, small calls, and temperatures."""

from collections.abc import Callable
from functools import partial
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from attention_lab.attention import (
    L2,
    ALiBi,
    AttentionInputs,
    Causal,
    DifferentialAttention,
    General,
    Mask,
    Normalizer,
    ScaledDotProduct,
    ScoredAttention,
    Softmax,
    SoftmaxPlusOne,
    T5Bias,
    TemperedSoftmax,
)
from attention_lab.attention.backends import sdpa


def inputs(mask: Mask | None = None) -> AttentionInputs:
    tensors = (torch.randn(2, heads, 6, 8).double().requires_grad_() for heads in (4, 2, 2))
    return AttentionInputs(*tensors, mask=mask)


@pytest.mark.parametrize("mask", [None, Causal()], ids=str)
def test_differential_attention_uses_the_fast_kernel_of_the_cpu(mask: Mask | None) -> None:
    """Its queries are half as wide as its values, which this kernel does not take."""
    layer = DifferentialAttention(32, num_heads=4, num_kv_heads=2, backend="sdpa").double()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises if it cannot be used
        layer.attend(inputs(mask))[0].sum().backward()


@pytest.mark.parametrize("positions", [ALiBi, T5Bias])
@pytest.mark.parametrize("learned", [False, True])
def test_a_temperature_divides_the_bias_too(
    positions: type[ALiBi] | type[T5Bias], learned: bool
) -> None:
    given = inputs(Causal())
    wanted = [given.query, given.key, given.value]

    def result(backend: str) -> list[Tensor]:
        torch.manual_seed(0)
        layer = ScoredAttention(
            32,
            num_heads=4,
            num_kv_heads=2,
            score=ScaledDotProduct,
            normalizer=partial(TemperedSoftmax, 0.3, learned=learned),
            positions=positions,
            backend=backend,
        ).double()
        output = layer.attend(given)[0]
        parts = [*layer.normalizer.parameters(), *layer.positions.parameters()]
        return [output, *torch.autograd.grad(output.square().sum(), [*wanted, *parts])]

    assert_close(result("sdpa"), result("eager"))


@pytest.mark.parametrize(
    ("score", "normalizer"),
    [
        (ScaledDotProduct, Softmax),
        (L2, Softmax),
        (ScaledDotProduct, SoftmaxPlusOne),
        (ScaledDotProduct, partial(TemperedSoftmax, 0.3)),
    ],
)
def test_small_calls_by_products_are_those_of_eager(
    score: type[ScaledDotProduct] | type[L2],
    normalizer: Callable[[], Normalizer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sdpa, "FEWEST_BY_PRODUCTS", 0)
    given = inputs()
    wanted = [given.query, given.key, given.value]

    def result(backend: str) -> list[Tensor]:
        layer = ScoredAttention(
            32, num_heads=4, num_kv_heads=2, score=score, normalizer=normalizer, backend=backend
        ).double()
        output = layer.attend(given)[0]
        grads = torch.autograd.grad(output.square().sum(), wanted, create_graph=True)
        second = torch.autograd.grad(torch.stack([x.square().sum() for x in grads]).sum(), wanted)
        return [output, *grads, *second]

    assert_close(result("sdpa"), result("eager"))


@pytest.mark.parametrize(
    ("pairs", "mask", "by_kernel"),
    [
        ((8, 16), None, False),
        ((1, 4), None, True),  # few pairs
        ((1, 200), None, True),  # many queries
        ((64, 128), None, True),  # many pairs
        ((8, 16), Causal(), True),
    ],
)
def test_small_unmasked_calls_do_not_use_the_kernel(
    pairs: tuple[int, int], mask: Mask | None, by_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Mock(wraps=F.scaled_dot_product_attention)
    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    batch, length = pairs
    layer = ScoredAttention(64, num_heads=8, score=ScaledDotProduct, normalizer=Softmax)
    layer(torch.randn(batch, length, 64), mask=mask)
    assert kernel.called == by_kernel


def test_small_calls_keep_their_data_type_in_autocast() -> None:
    layer = ScoredAttention(64, num_heads=8, score=ScaledDotProduct, normalizer=Softmax)
    query, key, value = torch.randn(3, 8, 8, 16, 8).unbind()
    given = AttentionInputs(query, key, value.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        output = layer.attend(given)[0]
    assert output.dtype == torch.bfloat16
    expected = F.scaled_dot_product_attention(query, key, value.bfloat16().float())
    assert_close(output.float(), expected, rtol=0.01, atol=0.005)


def test_queries_that_a_score_maps_to_half_precision_do_not_overflow() -> None:
    layer = ScoredAttention(64, num_heads=8, score=General, normalizer=Softmax, backend="sdpa")
    query, key, value = torch.randn(3, 8, 8, 16, 8).unbind()
    with torch.autocast("cpu", torch.float16):
        output = layer.attend(AttentionInputs(200 * query, 200 * key, value))[0]
    assert output.isfinite().all()
