"""Second derivatives of SDPA on the CPU, and that first ones cost what they cost without them."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from attention_lab.attention import (
    AttentionInputs,
    Causal,
    Mask,
    Normalizer,
    Padding,
    ScaledDotProduct,
    ScoredAttention,
    SlidingWindow,
    Softmax,
    SoftmaxPlusOne,
)
from attention_lab.attention.backends import double_backward

PADDING = Padding(torch.tensor([[True] * 4 + [False], [False] + [True] * 4]))


def inputs() -> list[Tensor]:
    return [torch.randn(2, heads, 5, 4).double().requires_grad_() for heads in (4, 2, 2)]


def layer(normalizer: type[Normalizer] = Softmax) -> ScoredAttention:
    return ScoredAttention(16, score=ScaledDotProduct, normalizer=normalizer, num_heads=4)


@pytest.mark.parametrize(
    "mask", [None, Causal(), PADDING, Causal() & PADDING, SlidingWindow(2)], ids=str
)
@pytest.mark.parametrize("normalizer", [Softmax, SoftmaxPlusOne])
def test_second_derivatives(mask: Mask | None, normalizer: type[Normalizer]) -> None:
    """With grouped heads; in the first sequence under causal padding a query sees no key."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return layer(normalizer).attend(AttentionInputs(q, k, v, mask))[0]

    tensors = inputs()
    assert gradgradcheck(attend, tensors, fast_mode=True)
    total = attend(*tensors).square().sum()
    recorded = torch.autograd.grad(total, tensors, create_graph=True)
    assert_close(recorded, torch.autograd.grad(attend(*tensors).square().sum(), tensors))


def test_other_backward_passes_use_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(double_backward, "_gradients")
    q, k, v = (torch.randn(2, 4, 5, 4).double().requires_grad_() for _ in range(3))
    output = layer().attend(AttentionInputs(q, k, v, Causal()))[0]
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    outer = torch.randn_like(output)
    grads = (torch.autograd.grad(x, (q, k, v), outer) for x in (output, expected))
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


def test_sdpa_kernel_around_a_call_chooses_the_kernel() -> None:
    q, k, v = inputs()
    with sdpa_kernel(SDPBackend.MATH):
        output = layer().attend(AttentionInputs(q, k, v, Causal()))[0]
    nodes, names = [output.grad_fn], set[str]()
    while nodes:
        if (node := nodes.pop()) is not None:
            names.add(node.name())
            nodes += [following for following, _ in node.next_functions]
    assert double_backward.KERNEL not in names
    assert "SafeSoftmaxBackward0" in names or "SoftmaxBackward0" in names


def test_keys_are_released_by_the_backward_pass() -> None:
    """The output, which outlives the pass, does not keep them."""
    q, k, v = (torch.randn(2, 4, 5, 4).double().requires_grad_() for _ in range(3))
    key = k * 1
    output, kept = layer().attend(AttentionInputs(q, key, v, Causal()))[0], weakref.ref(key)
    del key
    output.sum().backward()
    assert kept() is None
