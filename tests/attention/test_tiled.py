"""Attention in tiles on the CPU: same outputs and gradients as eager, for every mask and bias."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_lab.attention import (
    ALiBi,
    AttentionInputs,
    Causal,
    Mask,
    NoPositions,
    Normalizer,
    Padding,
    Positions,
    ReLU,
    ScaledDotProduct,
    ScoredAttention,
    Shaw,
    Sigmoid,
    SlidingWindow,
    Softmax,
    SoftmaxPlusOne,
    Sparsemax,
    T5Bias,
    TemperedSoftmax,
    TopK,
)
from attention_lab.attention.backends import tiled

VALID = torch.ones(2, 9, dtype=torch.bool)
VALID[0, :4], VALID[1, 6:] = False, False
MASKS = [None, Causal(), Causal() & Padding(VALID), SlidingWindow(3, centred=True)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("TILE", 20), ("FEWEST", 0), ("FEWEST_IN_TRAINING", 0)):
        monkeypatch.setattr(tiled, name, size)


def layer(
    normalizer: Callable[[], Normalizer], positions: type[Positions], backend: str
) -> ScoredAttention:
    torch.manual_seed(0)
    return ScoredAttention(
        16,
        num_heads=4,
        num_kv_heads=2,
        score=ScaledDotProduct,
        normalizer=normalizer,
        positions=positions,
        backend=backend,
    ).double()


def inputs(mask: Mask | None, start: int = 0) -> AttentionInputs:
    lengths = {4: 9 - start, 2: 9}
    tensors = (torch.randn(2, h, lengths[h], 4).double().requires_grad_() for h in (4, 2, 2))
    return AttentionInputs(*tensors, mask=mask, start=start)


def results(it: ScoredAttention, given: AttentionInputs) -> list[Tensor]:
    output = it.attend(given)[0]
    wanted = [given.query, given.key, given.value, *it.positions.parameters()]
    return [output, *torch.autograd.grad(output.square().sum(), wanted)]


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("positions", [NoPositions, ALiBi, Shaw])
@pytest.mark.parametrize("normalizer", [Sigmoid, ReLU, Sparsemax, TopK])
def test_outputs_and_gradients_are_those_of_eager(
    normalizer: type[Normalizer], positions: type[Positions], mask: Mask | None, start: int
) -> None:
    given = inputs(mask, start)
    ours, expected = (results(layer(normalizer, positions, it), given) for it in ("auto", "eager"))
    assert layer(normalizer, positions, "auto").backend.name == "tiled"
    assert_close(ours, expected)


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("positions", [T5Bias, Shaw])
@pytest.mark.parametrize("normalizer", [Softmax, SoftmaxPlusOne, TemperedSoftmax])
def test_sdpa_learns_a_bias_in_tiles(
    normalizer: type[Normalizer],
    positions: type[Positions],
    mask: Mask | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = inputs(mask)
    expected = results(layer(normalizer, positions, "eager"), given)
    monkeypatch.delattr("torch.nn.functional.scaled_dot_product_attention")
    assert_close(results(layer(normalizer, positions, "sdpa"), given), expected)


def test_no_key_after_a_causal_tile_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    compute = tiled.masked_weights

    def recorded(logits: Tensor, visible: Tensor | None, normalizer: Normalizer) -> Tensor:
        sizes.append(logits.shape[-1])
        return compute(logits, visible, normalizer)

    monkeypatch.setattr(tiled, "masked_weights", recorded)
    with torch.no_grad():
        layer(Sigmoid, NoPositions, "tiled").attend(inputs(Causal()))
    assert set(sizes) == {2, 4, 6, 8, 9}  # tiles of two queries


def test_the_backward_pass_keeps_no_tensor_of_all_pairs() -> None:
    kept: list[int] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    given = inputs(None)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        layer(Sigmoid, NoPositions, "tiled").attend(given)
    assert max(kept) == given.query.numel() < 2 * 4 * 9 * 9


def test_many_tiles_add_up_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum in bfloat16 stops growing at 256 times its terms."""
    monkeypatch.setattr(tiled, "TILE", 4)
    query, key, value = (torch.zeros(1, 4, n, 4, dtype=torch.bfloat16) for n in (600, 4, 4))
    given = AttentionInputs(query, key, value.requires_grad_())
    output, _ = layer(Sigmoid, NoPositions, "tiled").attend(given)
    (gradient,) = torch.autograd.grad(output.sum(), value)
    assert_close(gradient, torch.full_like(value, 600 / 5))  # each weight is sigmoid(−log 4)


def test_few_pairs_are_computed_by_eager_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "FEWEST_IN_TRAINING", 2 * 4 * 9 * 9 + 1)
    monkeypatch.delattr(tiled, "attend_in_tiles")
    layer(Sigmoid, NoPositions, "tiled").attend(inputs(None))
