"""Comparing the output of attention with its recorded weights."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attention_lab.attention import (
    BACKENDS,
    Additive,
    ALiBi,
    AttentionInputs,
    AttentionLayer,
    AttentionSpec,
    Backend,
    Causal,
    DifferentialAttention,
    KernelAttention,
    OutputError,
    PositiveRandomFeatures,
    ScaledDotProduct,
    Score,
    ScoredAttention,
    Softmax,
    record_attention,
    record_errors,
    record_logits,
)
from attention_lab.contract.cases import WIDTH, cases

SDPA, FUSED = BACKENDS[:2]


def errors(layer: AttentionLayer, x: Tensor) -> list[OutputError]:
    """The errors of a call of a layer, in evaluation."""
    layer.eval()
    mask = Causal() if layer.info.causal else None
    with torch.no_grad(), record_attention(layer), record_errors(layer) as found:
        layer(x, mask=mask)
    assert not layer.attend_hooks
    return found[""]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_weights_of_every_mechanism_give_its_output(dtype: torch.dtype) -> None:
    x = 3 * torch.randn(2, 9, WIDTH, dtype=dtype)
    for case in cases(None, None):
        layer = case.layer().to(dtype)
        found = errors(layer, x)
        assert len(found) == layer.info.weights, case.name
        assert not any(error.is_mismatch for error in found), (case.name, found)


def test_autocast_rounds_but_is_no_mismatch() -> None:
    x = torch.randn(2, 9, WIDTH)
    for case in cases(None, None):
        layer = case.layer().float()
        with torch.autocast("cpu", torch.bfloat16):
            assert not any(error.is_mismatch for error in errors(layer, x)), case.name


def changed(output: Tensor) -> Backend:
    """SDPA with another output."""
    return replace(
        SDPA, compute=lambda inputs, spec: (SDPA.compute(inputs, spec)[0] + output, None)
    )


def attention(**options: object) -> ScoredAttention:
    return ScoredAttention(16, score=ScaledDotProduct, normalizer=Softmax, num_heads=2, **options)  # type: ignore[arg-type]  # any options


def test_a_backend_with_another_output_is_a_mismatch() -> None:
    layer, x = attention(), torch.randn(2, 5, 16)
    layer.backend = changed(torch.tensor(0.01))
    (error,) = errors(layer, x)
    assert error.is_mismatch
    layer.backend = changed(torch.tensor(float("nan")))
    assert errors(layer, x)[0].is_mismatch


def test_a_backend_that_ignores_the_mask_is_a_mismatch() -> None:
    def unmasked(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, None]:
        return SDPA.compute(replace(inputs, mask=None), spec)[0], None

    layer = attention()
    layer.backend = replace(SDPA, compute=unmasked)
    assert errors(layer, torch.randn(2, 5, 16))[0].is_mismatch


def test_differential_attention_is_compared_with_the_eager_backend() -> None:
    """Its norm makes the output more than weights times values."""
    layer, x = DifferentialAttention(16, num_heads=2), torch.randn(2, 5, 16)
    assert not errors(layer, x)[0].is_mismatch
    layer.backend = changed(torch.randn(8))
    assert errors(layer, x)[0].is_mismatch
    assert errors(layer, x)[0].is_mismatch, "the backend was not restored"


def test_a_wrong_kernel_is_a_mismatch_though_its_own_weights_give_its_output() -> None:
    def doubled(inputs: AttentionInputs, spec: AttentionSpec) -> tuple[Tensor, Tensor | None]:
        return FUSED.compute(replace(inputs, query=2 * inputs.query), spec)

    layer = ScoredAttention(16, score=Additive, normalizer=Softmax, num_heads=2, backend="fused")
    assert not errors(layer, torch.randn(2, 5, 16))[0].is_mismatch
    layer.backend = replace(FUSED, compute=doubled)
    assert errors(layer, torch.randn(2, 5, 16))[0].is_mismatch


@pytest.mark.parametrize("score", [Additive, ScaledDotProduct])
def test_of_long_sequences_the_last_rows_are_computed_again(
    score: type[Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.attention.recording._EAGER_PAIRS", 2 * 2 * 9 * 4)
    layer = ScoredAttention(
        16, score=score, normalizer=Softmax, positions=ALiBi, num_heads=2, mask=Causal()
    ).eval()
    rows: list[int] = []
    layer.score.register_forward_hook(lambda score, inputs, logits: rows.append(logits.shape[2]))
    with record_logits(layer) as logits:
        assert not errors(layer, torch.randn(2, 9, 16))[0].is_mismatch
    assert rows == [9, 4]
    assert [each.shape[2] for each in logits[""]] == [9]


def test_wrong_weights_of_linear_attention_are_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = KernelAttention(16, num_heads=2, feature_map=PositiveRandomFeatures)
    original = layer.attend

    def transposed(inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        output, weights = original(inputs)
        return output, None if weights is None else weights.flip(1)

    monkeypatch.setattr(layer, "attend", transposed)
    assert errors(layer, torch.randn(2, 5, 16))[0].is_mismatch


def test_calls_from_a_cache_are_compared_too() -> None:
    layer = attention().eval()
    layer.backend = changed(torch.tensor(0.01))
    memory = layer.remember(torch.randn(2, 5, 16))
    with torch.no_grad(), record_attention(layer), record_errors(layer) as found:
        for _ in range(3):
            layer(torch.randn(2, 1, 16), cache=memory)
    assert [error.is_mismatch for error in found[""]] == [True] * 3


def test_without_weights_nothing_is_compared() -> None:
    layer = attention()
    with record_errors(nn.Sequential(layer)) as found:
        layer(torch.randn(2, 5, 16))
    assert found == {"0": []}


@pytest.mark.parametrize(
    ("score", "backend"),
    [(Additive, "fused"), (Additive, "eager"), (ScaledDotProduct, "sdpa")],
)
def test_recorded_logits_are_those_of_the_weights(score: type[Score], backend: str) -> None:
    layer = ScoredAttention(16, score=score, normalizer=Softmax, num_heads=2, backend=backend)
    with torch.no_grad(), record_attention(layer) as weights, record_logits(layer) as logits:
        layer(torch.randn(2, 5, 16))
    torch.testing.assert_close(logits[""][0].softmax(-1), weights[""][0])
