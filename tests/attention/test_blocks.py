"""Sliding windows are computed block by block: the same as from all pairs of positions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from attention_lab.attention import (
    L2,
    Additive,
    ALiBi,
    AttentionInputs,
    Cache,
    Causal,
    Cosine,
    Dense,
    DifferentialAttention,
    Dilated,
    Documents,
    Location,
    Mask,
    Padding,
    Positions,
    Rotary,
    ScaledDotProduct,
    ScoredAttention,
    Shaw,
    Sigmoid,
    SlidingWindow,
    Softmax,
    T5Bias,
    TopK,
    record_attention,
    record_logits,
)
from attention_lab.attention.backends import blocks
from attention_lab.attention.backends.blocks import Blocks

LENGTH, HEADS, WIDTH = 30, 4, 16
VALID = torch.arange(LENGTH) >= torch.tensor([[0], [7]])
IDS = (torch.arange(LENGTH) // 6).expand(2, -1)
MASKS: dict[str, Mask] = {
    "causal": SlidingWindow(3),
    "centred": SlidingWindow(5, centred=True),
    "own": SlidingWindow(1),
    "dilated": Dilated(2, 2),
    "padding": SlidingWindow(4) & Padding(VALID),
    "documents": Documents(IDS) & SlidingWindow(3, centred=True),
    "or": SlidingWindow(2) | SlidingWindow(3, centred=True),
    "causal-and-centred": Causal() & SlidingWindow(7, centred=True),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "STEP", 4)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Blocks]]:
    """The blocks of all calls."""
    used: list[Blocks] = []
    split = Blocks.split

    def record(self: Blocks, inputs: AttentionInputs) -> AttentionInputs:
        used.append(self)
        return split(self, inputs)

    with monkeypatch.context() as patched:
        patched.setattr(Blocks, "split", record)
        yield used


def scored(**options: Any) -> ScoredAttention:
    defaults: dict[str, Any] = {"score": ScaledDotProduct, "normalizer": Softmax}
    torch.manual_seed(0)
    return ScoredAttention(WIDTH, num_heads=HEADS, **(defaults | options)).double().eval()


def from_all_pairs(mask: Mask, queries: int = LENGTH, keys: int = LENGTH, start: int = 0) -> Dense:
    total = start + queries
    visible = mask.dense(2, HEADS, total, keys, torch.device("cpu"))
    return Dense(visible.expand(-1, -1, total, keys))


def outputs_and_gradients(
    layer: torch.nn.Module, mask: Mask, *inputs: Tensor, **options: Any
) -> list[Tensor]:
    output = layer(*inputs, mask=mask, **options).output
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    leaves = [*inputs, *layer.parameters()]
    return [output, *torch.autograd.grad((output * direction).sum(), leaves, allow_unused=True)]


MECHANISMS: dict[str, Callable[[], torch.nn.Module]] = {
    "sdpa": scored,
    "eager": partial(scored, backend="eager"),
    "grouped": partial(scored, num_kv_heads=2),
    "rotary": partial(scored, positions=Rotary),
    "alibi": partial(scored, positions=ALiBi),
    "t5": partial(scored, positions=T5Bias),
    "shaw": partial(scored, positions=partial(Shaw, max_distance=2)),
    "l2": partial(scored, score=L2),
    "cosine": partial(scored, score=Cosine),
    "additive": partial(scored, score=Additive),
    "additive-eager": partial(scored, score=Additive, backend="eager"),
    "sigmoid": partial(scored, normalizer=Sigmoid),
    "top-k": partial(scored, normalizer=partial(TopK, 2)),
    "talking": partial(scored, talking_heads=True),
    "differential": lambda: DifferentialAttention(WIDTH, num_heads=HEADS).double().eval(),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_every_mask(name: str, mask: Mask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients, with empty rows."""
    layer, x = MECHANISMS[name](), torch.randn(2, LENGTH, WIDTH).double().requires_grad_()
    with counted(monkeypatch) as used:
        actual = outputs_and_gradients(layer, mask, x)
    assert used, "not computed in blocks"
    assert_close(actual, outputs_and_gradients(layer, from_all_pairs(mask), x))


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_mechanism(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = MECHANISMS[name](), torch.randn(2, LENGTH, WIDTH).double().requires_grad_()
    mask = SlidingWindow(4) & Padding(VALID)
    with counted(monkeypatch) as used:
        actual = outputs_and_gradients(layer, mask, x)
    assert used, "not computed in blocks"
    assert_close(actual, outputs_and_gradients(layer, from_all_pairs(mask), x))


@pytest.mark.parametrize(
    ("queries", "keys"), [(20, 13), (13, 20), (9, 40), (1, 30), (33, 9), (40, 26)]
)
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("centred", [False, True])
def test_other_lengths(queries: int, keys: int, start: int, centred: bool) -> None:
    """More keys than queries, fewer, and queries from a later position."""
    layer, mask = scored(positions=Rotary), SlidingWindow(3, centred)
    x, memory = (torch.randn(2, n, WIDTH).double().requires_grad_() for n in (queries, keys))
    actual = outputs_and_gradients(layer, mask, x, memory, start=start)
    expected = from_all_pairs(mask, queries, keys, start)
    assert_close(actual, outputs_and_gradients(layer, expected, x, memory, start=start))


@pytest.mark.parametrize("name", ["sdpa", "additive", "alibi"])
def test_steps_with_a_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step uses the near keys only."""
    layer, x = MECHANISMS[name](), torch.randn(2, LENGTH, WIDTH).double()
    whole, cache = layer(x, mask=from_all_pairs(SlidingWindow(3))).output, Cache()
    with counted(monkeypatch) as used, torch.no_grad():
        steps = [layer(x, mask=SlidingWindow(3), cache=cache).output for x in x.split(1, dim=1)]
    assert_close(torch.cat(steps, dim=1), whole)
    assert {block.keys for block in used} == {3}


def test_weights_and_logits_are_of_whole_sequences() -> None:
    """Asking for weights changes no bit of the output."""
    layer, x = MECHANISMS["additive"](), torch.randn(2, LENGTH, WIDTH).double()
    with record_attention(layer) as weights, record_logits(layer) as logits:
        observed = layer(x, mask=SlidingWindow(3)).output
    assert torch.equal(observed, layer(x, mask=SlidingWindow(3)).output)
    expected = layer(x, mask=from_all_pairs(SlidingWindow(3)), need_weights=True).weights
    assert_close(weights[""], [expected])
    assert [tuple(each.shape) for each in logits[""]] == [(2, HEADS, LENGTH, LENGTH)]


class Absolute(Positions):
    """A bias that depends on the key's position."""

    def bias(self, query: Tensor, start: int, keys: int) -> Tensor:
        return torch.arange(keys, dtype=query.dtype).sin()


@pytest.mark.parametrize(
    "options", [{"positions": Absolute}, {"score": partial(Location, max_length=LENGTH)}]
)
def test_what_depends_on_absolute_positions_is_computed_from_all_pairs(
    options: dict[str, Any],
) -> None:
    layer, x = scored(**options), torch.randn(2, LENGTH, WIDTH).double()
    mask = SlidingWindow(3)
    assert_close(layer(x, mask=mask).output, layer(x, mask=from_all_pairs(mask)).output)


def test_gradients_are_those_of_finite_differences() -> None:
    layer, mask = scored(num_kv_heads=2), SlidingWindow(3)
    inputs = [torch.randn(1, heads, 17, 4).double().requires_grad_() for heads in (HEADS, 2, 2)]
    assert gradcheck(
        lambda q, k, v: layer.attend(AttentionInputs(q, k, v, mask))[0], inputs, fast_mode=True
    )


def test_distances_far_from_the_origin() -> None:
    """The score L2 is relative to the first key of a block, which may be before the sequence."""
    layer = scored(score=L2, projections="none").float()
    x = torch.randn(2, LENGTH, WIDTH) + 1000
    expected = layer.double()(x.double(), mask=from_all_pairs(SlidingWindow(3))).output
    actual = layer.float()(x, mask=SlidingWindow(3)).output
    assert_close(actual.double(), expected, rtol=1e-5, atol=1e-4)


def test_compiling_with_changing_lengths() -> None:
    layer = scored()
    compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
    for length in (20, 24, 31):
        x = torch.randn(2, length, WIDTH).double()
        expected = layer(x, mask=from_all_pairs(SlidingWindow(3), length, length)).output
        assert_close(compiled(x, mask=SlidingWindow(3)).output, expected)
