"""The layer around a mechanism: sizes, heads, projections, arguments, errors and observation."""

import contextlib
import subprocess
import sys
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from attention_lab.attention import (
    Additive,
    ALiBi,
    Backend,
    Causal,
    DotProduct,
    General,
    Mask,
    Normalizer,
    Padding,
    ScaledDotProduct,
    Score,
    ScoredAttention,
    Softmax,
    Uniform,
    attention_layers,
    record_attention,
)

SCORES = [DotProduct, ScaledDotProduct, General, Additive, Uniform]


class SharpSoftmax(Normalizer):
    """A normalizer of a user's own."""

    formula = "softmax(2 l)"
    paper = "mine"

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        return (2 * logits).softmax(-1)


def make(embed_dim: int = 8, kdim: int | None = None, **options: Any) -> ScoredAttention:
    return ScoredAttention(
        embed_dim,
        kdim,
        **{"score": ScaledDotProduct, "normalizer": Softmax, **options},
    )


# Sizes


def test_no_keys_give_zeros() -> None:
    output = make()(torch.randn(2, 3, 8), torch.randn(2, 0, 8)).output
    assert_close(output, torch.zeros(2, 3, 8))


def test_without_memory_it_is_self_attention() -> None:
    layer = make(num_heads=2)
    query = torch.randn(2, 5, 8)
    assert_close(layer(query).output, layer(query, query).output)


def test_projections_have_their_sizes() -> None:
    layer = make(8, 6, head_dim=3, num_heads=4, num_kv_heads=2)
    sizes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert sizes == {
        "query_projection.weight": (12, 8),
        "key_projection.weight": (6, 6),
        "value_projection.weight": (6, 6),
        "output_projection.weight": (8, 12),
    }


def test_bias_is_in_every_projection() -> None:
    names = {name for name, _ in make(bias=True).named_parameters() if name.endswith("bias")}
    assert names == {f"{which}_projection.bias" for which in ("query", "key", "value", "output")}


@pytest.mark.parametrize(
    ("projections", "learned"),
    [("all", {"query", "key", "value", "output"}), ("values", {"value", "output"}), ("none", {})],
)
def test_projections_that_are_absent(projections: str, learned: set[str]) -> None:
    layer = make(projections=projections, num_heads=2)
    for which in ("query", "key", "value", "output"):
        projection = getattr(layer, f"{which}_projection")
        assert isinstance(projection, nn.Linear if which in learned else nn.Identity)


def test_a_value_projection_is_of_the_values() -> None:
    """With "values" the weights depend on the raw memory, the output on its projection."""
    layer = make(projections="values")
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    output, weights = layer(query, memory, need_weights=True)
    assert_close(weights[:, 0], (query @ memory.mT / 8**0.5).softmax(-1))
    assert_close(output, layer.output_projection(weights[:, 0] @ layer.value_projection(memory)))


# Backends


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, "sdpa"),
        ({"score": General}, "sdpa"),
        ({"score": Additive}, "fused"),
        ({"normalizer": SharpSoftmax}, "eager"),
        ({"backend": "eager"}, "eager"),
        ({"backend": "sdpa"}, "sdpa"),
    ],
    ids=str,
)
def test_backend_is_the_fastest_that_can(options: dict[str, Any], chosen: str) -> None:
    backend = make(**options).backend
    assert isinstance(backend, Backend)
    assert backend.name == chosen


@pytest.mark.parametrize(
    ("score", "backend", "plain", "with_bias"),
    [
        (Additive, "eager", "L·S·a", "L·S·a"),
        (Additive, "fused", "L·S", "L·S"),
        (DotProduct, "eager", "L·S", "L·S"),
        (DotProduct, "sdpa", "S·d", "L·S"),
    ],
)
def test_memory_is_that_of_the_backend(
    score: type[Score], backend: str, plain: str, with_bias: str
) -> None:
    assert make(score=score, backend=backend).info.memory == plain
    assert make(score=score, backend=backend, positions=ALiBi).info.memory == with_bias


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_bias_is_computed_once_for_output_and_weights(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    bias = Mock(wraps=ALiBi.bias)
    monkeypatch.setattr(ALiBi, "bias", lambda *given: bias(*given))
    layer = make(score=DotProduct, backend=backend, positions=ALiBi)
    layer(torch.randn(1, 3, 8), need_weights=True)
    assert bias.call_count == 1


@pytest.mark.parametrize(
    ("options", "culprit"),
    [({"score": Additive}, "Additive"), ({"normalizer": SharpSoftmax}, "SharpSoftmax")],
)
def test_impossible_backend_is_refused_with_what_works(
    options: dict[str, Any], culprit: str
) -> None:
    with pytest.raises(ValueError, match=rf"sdpa.*{culprit}.*eager"):
        make(backend="sdpa", **options)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 0}, "embed_dim must be at least 1, got 0"),
        ({"kdim": -1}, "kdim must be at least 1, got -1"),
        ({"head_dim": 0}, "head_dim must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_heads": -2}, "num_heads must be at least 1, got -2"),
        ({"num_heads": 3}, "8.*3"),
        ({"embed_dim": 6, "num_heads": 4}, "embed_dim=6 is not divisible by num_heads=4"),
        ({"num_kv_heads": 0}, "num_kv_heads must be at least 1, got 0"),
        ({"num_heads": 4, "num_kv_heads": 3}, "4.*3"),
        ({"num_heads": 2, "num_kv_heads": 4}, "2.*4"),
        ({"dropout": -0.1}, r"-0\.1"),
        ({"dropout": 1.5}, r"1\.5"),
        ({"dropout": float("nan")}, "nan"),
        ({"projections": "some"}, "all.*values.*none.*some"),
        ({"backend": "fast"}, "auto.*sdpa.*eager.*fast"),
        ({"projections": "none", "kdim": 6}, "8.*6"),
        ({"projections": "values", "kdim": 6}, "8.*6"),
        ({"projections": "none", "head_dim": 4}, "8.*4"),
        ({"projections": "values", "num_heads": 4, "num_kv_heads": 2}, "2"),
        ({"score": partial(Additive, hidden_dim=0)}, "hidden_dim must be at least 1, got 0"),
    ],
    ids=str,
)
def test_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_of_at_least_one_head(score: type[Score]) -> None:
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
        score(0, 4)
    with pytest.raises(ValueError, match="head_dim must be at least 1, got 0"):
        score(2, 0)


def test_a_bias_of_no_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        make(projections="none", bias=True)


@pytest.mark.parametrize(
    "construct",
    [make, *(partial(score, 2, 4) for score in SCORES), Softmax, Causal],
    ids=["layer", *(score.__name__ for score in SCORES), "Softmax", "Causal"],
)
def test_unknown_keyword(construct: Any) -> None:
    with pytest.raises(TypeError, match="temperature"):
        construct(temperature=2.0)


def test_options_have_names() -> None:
    """Only the widths go by position."""
    with pytest.raises(TypeError):
        ScoredAttention(8, 8, DotProduct, Softmax)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalizer": "softmax"}, "normalizer='softmax': must be a Normalizer.*=Softmax"),
        ({"normalizer": Softmax()}, "normalizer=Softmax.*must be a Normalizer.*use.*=Softmax$"),
        ({"normalizer": ScaledDotProduct}, "must be a Normalizer class"),
        ({"normalizer": lambda: 3}, "normalizer must return a Normalizer, but returned 3"),
        ({"score": "scaled_dot_product"}, "score='scaled_dot_product'.*use score=ScaledDotProduct"),
        ({"positions": "rotray"}, "positions='rotray'.*use positions=Rotary"),
        ({"score": "elu"}, "score='elu': must be a Score class.*available: "),
        ({"mask": "causal"}, r"mask='causal': must be a Mask; use mask=Causal\(\)"),
        ({"mask": Causal}, r"mask=Causal: must be a Mask; use mask=Causal\(\)"),
    ],
)
def test_names_and_finished_parts_are_refused_with_what_is_wanted(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


# A remembered memory


@pytest.mark.parametrize("kdim", [6, 8, 10])
@pytest.mark.parametrize("latent_dim", [None, 3])
def test_a_remembered_memory_may_have_its_own_width(kdim: int, latent_dim: int | None) -> None:
    layer = make(8, kdim, num_heads=2, latent_dim=latent_dim)
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, kdim)
    remembered = layer(query, cache=layer.remember(memory)).output
    assert_close(remembered, layer(query, memory).output)


def test_a_remembered_memory_is_checked() -> None:
    layer = make(8, 6)
    with pytest.raises(ValueError, match=r"memory: \(batch, length, 6\) expected, got \(2, 5, 8\)"):
        layer.remember(torch.randn(2, 5, 8))
    with pytest.raises(ValueError, match="1 queries and 2 memories in one batch"):
        layer(torch.randn(1, 3, 8), cache=layer.remember(torch.randn(2, 5, 6)))
    with pytest.raises(ValueError, match=r"query: \(batch, length, 8\) expected"):
        layer(torch.randn(2, 3, 6), cache=layer.remember(torch.randn(2, 5, 6)))


# Observation


class Block(nn.Module):
    """Two layers under different names, neither of which asks for weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"self": make(num_heads=2, mask=Causal())})
        self.cross = make(num_heads=4, score=Additive)

    def forward(self, query: Tensor, memory: Tensor, mask: Mask | None = None) -> Tensor:
        hidden: Tensor = self.inner["self"](query).output
        output: Tensor = self.cross(hidden, memory, mask).output
        return output


def test_attention_layers_by_name() -> None:
    block = Block()
    layers = attention_layers(block)
    assert list(layers) == ["inner.self", "cross"]
    assert layers["cross"] is block.cross
    assert attention_layers(nn.Linear(2, 2)) == {}


def test_observed_weights_are_the_ones_used() -> None:
    block = Block().eval()
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    padding = Padding(torch.tensor([[True] * 5, [True, False, True, False, False]]))
    unobserved = block(query, memory, padding)
    with record_attention(block) as weights:
        observed = block(query, memory, padding)
    assert_close(observed, unobserved)
    hidden, expected = block.inner["self"](query, need_weights=True)
    assert_close(weights["inner.self"], [expected])
    assert_close(weights["cross"], [block.cross(hidden, memory, padding, True).weights])
    assert list(weights) == ["inner.self", "cross"]


def test_each_call_is_observed() -> None:
    """A step-by-step decoder calls its layers once a step; some layers may not run at all."""
    block = Block()
    with record_attention(block) as weights:
        block.cross(torch.randn(1, 2, 8))
        output = block.cross(torch.randn(1, 3, 8))
    assert output.weights is None, "the model did not ask"
    assert [w.shape for w in weights["cross"]] == [(1, 4, 2, 2), (1, 4, 3, 3)]
    assert weights["inner.self"] == []


def test_a_layer_is_a_model_too() -> None:
    layer = make()
    with record_attention(layer) as weights:
        layer(torch.randn(1, 2, 8))
    assert [w.shape for w in weights[""]] == [(1, 1, 2, 2)]


def test_nothing_is_observed_afterwards() -> None:
    """Not even after an error, nor are weights given to whom did not ask."""
    block = Block()
    query = torch.randn(1, 3, 8)
    with contextlib.suppress(RuntimeError), record_attention(block) as weights:
        block(query, query)
        raise RuntimeError
    block(query, query)
    assert [len(calls) for calls in weights.values()] == [1, 1]
    assert block.cross(query).weights is None


def test_observing_in_training_gives_weights_before_dropout() -> None:
    layer = make(dropout=0.9)
    with record_attention(layer) as weights:
        layer(torch.randn(2, 5, 8))
    assert_close(weights[""][0].sum(-1), torch.ones(2, 1, 5))


def test_observation_does_not_keep_the_graph() -> None:
    layer = make()
    with record_attention(layer) as weights:
        layer(torch.randn(2, 5, 8))
    assert not weights[""][0].requires_grad


# Imports


def test_importing_attention_brings_in_torch_alone() -> None:
    code = (
        "import sys, attention_lab.attention\nprint(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"lightning", "pytorch_lightning", "hydra", "wandb", "torchmetrics"}
    assert not loaded & {"omegaconf", "matplotlib", "rich"}
