"""FlexAttention as a backend: on the CPU it can only infer, so it is held to eager there."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import flex_attention
from torch.testing import assert_close

from attention_lab.attention import (
    ALiBi,
    Causal,
    GlobalTokens,
    Mask,
    NoPositions,
    Padding,
    Positions,
    Rotary,
    ScaledDotProduct,
    ScoredAttention,
    Shaw,
    SlidingWindow,
    Softmax,
    T5Bias,
)
from attention_lab.attention.backends import flex

VALID = torch.ones(2, 9, dtype=torch.bool)
VALID[0, 5:], VALID[1] = False, False
MASKS: dict[str, Mask | None] = {
    "none": None,
    "causal": Causal(),
    "padding": Causal() & Padding(VALID),
    "composed": (SlidingWindow(3) | GlobalTokens(2)) & Padding(VALID),
}


def make(backend: str, positions: type[Positions], **options: float) -> ScoredAttention:
    return ScoredAttention(
        64,
        score=ScaledDotProduct,
        normalizer=Softmax,
        positions=positions,
        num_heads=4,
        num_kv_heads=2,
        backend=backend,
        **options,
    ).eval()


#: Each mask with positions that change logits, and all positions with the mask that has most parts:
#: every case generates and compiles code of its own, for two seconds.
@pytest.mark.parametrize(
    ("mask", "positions"),
    [
        *((mask, ALiBi) for mask in MASKS),
        *(("composed", positions) for positions in (NoPositions, Rotary, T5Bias, Shaw)),
    ],
)
def test_flex_equals_eager(mask: str, positions: type[Positions]) -> None:
    flex, eager = make("flex", positions), make("eager", positions)
    eager.load_state_dict(flex.state_dict())
    sequence = torch.randn(2, 9, 64)
    with torch.no_grad():
        assert_close(
            flex(sequence, mask=MASKS[mask]).output, eager(sequence, mask=MASKS[mask]).output
        )


@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0), (0, 0)])
def test_flex_of_nothing_is_nothing(queries: int, keys: int) -> None:
    with torch.no_grad():
        output = make("flex", ALiBi)(torch.randn(2, queries, 64), torch.randn(2, keys, 64)).output
    assert_close(output, torch.zeros(2, queries, 64))


def test_small_heads() -> None:
    flex, eager = (
        ScoredAttention(
            8,
            score=ScaledDotProduct,
            normalizer=Softmax,
            num_heads=2,
            backend=backend,
        )
        for backend in ("flex", "eager")
    )
    eager.load_state_dict(flex.state_dict())
    sequence = torch.randn(2, 9, 8)
    with torch.no_grad():
        assert_close(flex(sequence).output, eager(sequence).output)


def test_many_kinds_of_calls_stay_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even in one run there are more kinds of masks and sizes than torch compiles by default."""
    counter = CompileCounter()
    compiled = torch.compile(flex_attention, backend=counter)
    monkeypatch.setattr(flex, "_compiled_flex", lambda: compiled)
    torch._dynamo.reset()
    layer, kinds = make("flex", NoPositions), 0
    padding = Padding(VALID)
    masks = (Causal(), SlidingWindow(3), GlobalTokens(2), padding, Causal() & padding)
    with torch.no_grad():
        for mask in masks:
            for query in (torch.randn(2, 9, 64), torch.randn(2, 1, 64)):
                layer(query, torch.randn(2, 9, 64), mask)
                kinds += 1
    assert kinds > 8
    assert counter.frame_count == kinds


def test_flex_gives_weights_by_its_eager_twin() -> None:
    with torch.no_grad():
        _, weights = make("flex", NoPositions)(torch.randn(2, 9, 64), need_weights=True)
    assert weights is not None
    assert_close(weights.sum(-1), torch.ones(2, 4, 9))


def test_flex_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"flex cannot be used: it cannot drop weights.*sdpa"):
        make("flex", NoPositions, dropout=0.1)
    with pytest.raises(ValueError, match="only infers on the cpu; sdpa or eager trains"):
        make("flex", NoPositions)(torch.randn(2, 9, 64))
