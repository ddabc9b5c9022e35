"""The layer around a mechanism: sizes, heads, projections, knobs, errors and observation."""

import contextlib
import inspect
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from attention_lab.attention import (
    Additive,
    AttentionOutput,
    Backend,
    Causal,
    DotProduct,
    General,
    Mask,
    NoPositions,
    Normalizer,
    Padding,
    Rotary,
    ScaledDotProduct,
    Score,
    ScoredAttention,
    Softmax,
    Uniform,
    attention_layers,
    observe,
)

SCORES = [DotProduct, ScaledDotProduct, General, Additive, Uniform]


class SharpSoftmax(Normalizer):
    """A normalizer of a user's own."""

    formula = "softmax(2 l)"
    paper = "mine"

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        return (2 * logits).softmax(-1)


def make(query_dim: int = 8, memory_dim: int | None = None, **options: Any) -> ScoredAttention:
    return ScoredAttention(
        query_dim,
        memory_dim,
        **{"score": ScaledDotProduct, "normalizer": Softmax, **options},
    )


# Sizes


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("batch", "queries", "keys"), [(2, 3, 5), (2, 5, 3), (1, 1, 1)])
def test_shapes(score: type[Score], batch: int, queries: int, keys: int) -> None:
    layer = make(8, 6, score=score, width=12, heads=4, kv_heads=2)
    query, memory = torch.randn(batch, queries, 8), torch.randn(batch, keys, 6)
    result = layer(query, memory, need_weights=True)
    assert isinstance(result, AttentionOutput)
    assert result.output.shape == (batch, queries, 8)
    assert result.weights is not None
    assert result.weights.shape == (batch, 4, queries, keys)
    assert layer(query, memory).weights is None


def test_no_keys_give_zeros() -> None:
    output = make()(torch.randn(2, 3, 8), torch.randn(2, 0, 8)).output
    assert_close(output, torch.zeros(2, 3, 8))


def test_without_memory_it_is_self_attention() -> None:
    layer = make(heads=2)
    query = torch.randn(2, 5, 8)
    assert_close(layer(query).output, layer(query, query).output)


def test_projections_have_their_sizes() -> None:
    layer = make(8, 6, width=12, heads=4, kv_heads=2)
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
    layer = make(projections=projections, heads=2)
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


# Heads


def test_heads_are_neighbouring_slices_of_the_width() -> None:
    """Head h reads and writes components h·E to (h+1)·E."""
    layer = make(heads=4, projections="none")
    x = torch.randn(2, 3, 8)
    output = layer(x).output
    for head in range(4):
        part = x[:, :, 2 * head : 2 * head + 2]
        expected = make(2, projections="none")(part).output
        assert_close(output[:, :, 2 * head : 2 * head + 2], expected)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_grouped_heads_repeat_as_repeat_interleave(backend: str) -> None:
    """Query heads 0 and 1 share key head 0, 2 and 3 share key head 1."""
    grouped = make(heads=4, kv_heads=2, backend=backend)
    full = make(heads=4, backend=backend)
    full.query_projection, full.output_projection = (
        grouped.query_projection,
        grouped.output_projection,
    )
    for name in ("key_projection", "value_projection"):
        by_head = getattr(grouped, name).weight.unflatten(0, (2, 2))
        weight = by_head.repeat_interleave(2, dim=0).flatten(0, 1)
        getattr(full, name).weight = nn.Parameter(weight)
    query = torch.randn(2, 3, 8)
    assert_close(grouped(query).output, full(query).output)


@pytest.mark.parametrize("score", [General, Additive])
def test_each_head_has_its_own_score(score: type[Score]) -> None:
    """The same query and key in each head, and different weights."""
    layer = make(score=score, heads=2, projections="none")
    x = torch.randn(1, 3, 4).repeat(1, 1, 2)
    weights = layer(x, need_weights=True).weights
    assert not torch.allclose(weights[:, 0], weights[:, 1])


# Masks


def test_the_layers_own_mask_adds_to_the_calls() -> None:
    plain, causal = make(), make(mask=Causal())
    causal.load_state_dict(plain.state_dict())
    query = torch.randn(2, 4, 8)
    padding = Padding(torch.tensor([[True, True, False, True], [False, True, True, True]]))
    assert_close(causal(query).output, plain(query, mask=Causal()).output)
    assert_close(causal(query, mask=padding).output, plain(query, mask=Causal() & padding).output)


# Backends


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, "sdpa"),
        ({"score": General}, "sdpa"),
        ({"score": Additive}, "eager"),
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
    ("options", "culprit"),
    [({"score": Additive}, "Additive"), ({"normalizer": SharpSoftmax}, "SharpSoftmax")],
)
def test_impossible_backend_is_refused_with_what_works(
    options: dict[str, Any], culprit: str
) -> None:
    with pytest.raises(ValueError, match=rf"sdpa.*{culprit}.*eager"):
        make(backend="sdpa", **options)


# Knobs


class DoubledDotProduct(DotProduct):
    """A score of a user's own: another function of the query, still a dot product."""

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query, key, 2.0


KNOBS: dict[str, tuple[Any, Any]] = {
    "query_dim": (8, 12),
    "memory_dim": (None, 6),
    "score": (DotProduct, DoubledDotProduct),
    "normalizer": (Softmax, SharpSoftmax),
    "width": (None, 4),
    "heads": (1, 2),
    "kv_heads": (None, 1),
    "latent_dim": (None, 2),
    "positions": (NoPositions, Rotary),
    "talking_heads": (False, True),
    "gate": (False, True),
    "projections": ("all", "none"),
    "bias": (False, True),
    "mask": (None, Causal()),
    "dropout": (0.0, 0.5),
    "backend": ("eager", "sdpa"),
}


def fingerprint(layer: ScoredAttention, query_dim: int, memory_dim: int) -> list[Any]:
    """The sizes of the state, the backend, and an output in training."""
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    torch.manual_seed(2)
    output = layer(torch.randn(2, 3, query_dim), torch.randn(2, 3, memory_dim)).output
    sizes = [(name, tuple(p.shape)) for name, p in layer.state_dict().items()]
    return [sizes, layer.backend.name, [round(x, 4) for x in output.flatten().tolist()]]


def test_every_knob_is_listed() -> None:
    assert set(KNOBS) == set(inspect.signature(ScoredAttention).parameters)


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_something(knob: str) -> None:
    base = {"query_dim": 8, "heads": 2 if knob == "kv_heads" else 1}
    prints = []
    for value in KNOBS[knob]:
        options = {**base, knob: value}
        memory_dim = options.get("memory_dim") or options["query_dim"]
        layer = make(**options)
        prints.append(fingerprint(layer, options["query_dim"], memory_dim))
    assert prints[0] != prints[1]


def test_the_same_knobs_give_the_same_fingerprint() -> None:
    assert fingerprint(make(), 8, 8) == fingerprint(make(), 8, 8)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_dim": 0}, "query_dim must be at least 1, got 0"),
        ({"memory_dim": -1}, "memory_dim must be at least 1, got -1"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"heads": -2}, "heads must be at least 1, got -2"),
        ({"heads": 3}, "8.*3"),
        ({"width": 6, "heads": 4}, "6.*4"),
        ({"kv_heads": 0}, "kv_heads must be at least 1, got 0"),
        ({"heads": 4, "kv_heads": 3}, "4.*3"),
        ({"heads": 2, "kv_heads": 4}, "2.*4"),
        ({"dropout": -0.1}, r"-0\.1"),
        ({"dropout": 1.5}, r"1\.5"),
        ({"dropout": float("nan")}, "nan"),
        ({"projections": "some"}, "all.*values.*none.*some"),
        ({"backend": "fast"}, "auto.*sdpa.*eager.*fast"),
        ({"projections": "none", "memory_dim": 6}, "8.*6"),
        ({"projections": "values", "memory_dim": 6}, "8.*6"),
        ({"projections": "none", "width": 4}, "8.*4"),
        ({"projections": "values", "heads": 4, "kv_heads": 2}, "2"),
        ({"score": partial(Additive, hidden_dim=0)}, "hidden_dim must be at least 1, got 0"),
    ],
    ids=str,
)
def test_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_of_at_least_one_head(score: type[Score]) -> None:
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
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


# Observation


class Block(nn.Module):
    """Two layers under different names, neither of which asks for weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"self": make(heads=2, mask=Causal())})
        self.cross = make(heads=4, score=Additive)

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
    with observe(block) as weights:
        observed = block(query, memory, padding)
    assert_close(observed, unobserved)
    hidden, expected = block.inner["self"](query, need_weights=True)
    assert_close(weights["inner.self"], [expected])
    assert_close(weights["cross"], [block.cross(hidden, memory, padding, True).weights])
    assert list(weights) == ["inner.self", "cross"]


def test_each_call_is_observed() -> None:
    """A step-by-step decoder calls its layers once a step; some layers may not run at all."""
    block = Block()
    with observe(block) as weights:
        block.cross(torch.randn(1, 2, 8))
        output = block.cross(torch.randn(1, 3, 8))
    assert output.weights is None, "the model did not ask"
    assert [w.shape for w in weights["cross"]] == [(1, 4, 2, 2), (1, 4, 3, 3)]
    assert weights["inner.self"] == []


def test_a_layer_is_a_model_too() -> None:
    layer = make()
    with observe(layer) as weights:
        layer(torch.randn(1, 2, 8))
    assert [w.shape for w in weights[""]] == [(1, 1, 2, 2)]


def test_nothing_is_observed_afterwards() -> None:
    """Not even after an error, nor are weights given to whom did not ask."""
    block = Block()
    query = torch.randn(1, 3, 8)
    with contextlib.suppress(RuntimeError), observe(block) as weights:
        block(query, query)
        raise RuntimeError
    block(query, query)
    assert [len(calls) for calls in weights.values()] == [1, 1]
    assert block.cross(query).weights is None


def test_observing_in_training_gives_weights_before_dropout() -> None:
    layer = make(dropout=0.9)
    with observe(layer) as weights:
        layer(torch.randn(2, 5, 8))
    assert_close(weights[""][0].sum(-1), torch.ones(2, 1, 5))


def test_observation_does_not_keep_the_graph() -> None:
    layer = make()
    with observe(layer) as weights:
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
