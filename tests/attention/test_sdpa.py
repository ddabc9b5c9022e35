"""The backend sdpa: which of PyTorch's kernels it reaches, and temperatures."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from attention_lab.attention import (
    ALiBi,
    AttentionInputs,
    Causal,
    DifferentialAttention,
    Mask,
    ScaledDotProduct,
    ScoredAttention,
    T5Bias,
    TemperedSoftmax,
)


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
