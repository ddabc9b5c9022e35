"""Every shipped mechanism inside every shipped model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention import AttentionLayer, Uniform, attention_layers, record_attention
from attention_lab.config.components import create
from attention_lab.config.compose import group_options
from attention_lab.models.base import AttentionFactory, Network
from attention_lab.models.encoder_decoder import EncoderDecoder
from tests.conftest import Compose
from tests.models.conftest import ATTENTION

ATTENTIONS = list(group_options("attention"))
MODELS = list(group_options("model"))
#: These need another mechanism in a Transformer's decoder.
NEVER_CAUSAL = {"linformer", "nystrom"}
#: The data of models that are not for pairs of sequences.
DATA = {
    "self_attention_classifier": "digits",
    "encoder_classifier": "digits",
    "decoder": "recall",
}
SIZES = {
    "self_attention_classifier": {"in_features": 5, "num_classes": 13, "max_length": 7},
    "encoder_classifier": {"in_features": 5, "num_classes": 13, "max_length": 7},
    "decoder": {"vocab_size": 13, "max_length": 6},
}
#: And these cannot look from a target at a source.
NEVER_ACROSS = {"nystrom"}
ACROSS = {"encoder_decoder", "recurrent_encoder_decoder"}
IN_DECODERS = {"decoder", "prefix_decoder"}
PAIRS = [
    (model, attention)
    for model in MODELS
    for attention in ATTENTIONS
    if not (model in ACROSS and attention in NEVER_ACROSS)
    and not (model in IN_DECODERS and attention in NEVER_CAUSAL)
]

Inputs = tuple[Tensor, ...]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    names: tuple[str, str] = request.param
    return names


@pytest.fixture
def model_name(pair: tuple[str, str]) -> str:
    return pair[0]


@pytest.fixture
def config(compose: Compose, pair: tuple[str, str]) -> dict[str, Any]:
    """Each model with each mechanism, as `attention-lab train` would compose it."""
    model_name, attention = pair
    overrides = [f"attention={attention}", f"model={model_name}", "model.d_model=16"]
    overrides.append(f"data={DATA.get(model_name, 'g2p')}")
    if attention in NEVER_CAUSAL and model_name == "encoder_decoder":
        overrides.append("+attention@model.self_attention=multi_head")
    return compose(*overrides)


def inputs_of(model_name: str) -> Inputs:
    """A batch without any padding in it."""
    if DATA.get(model_name) == "digits":
        return (torch.randn(3, 7, 5),)
    if DATA.get(model_name) == "recall":
        return (torch.randint(13, (3, 6)),)
    return torch.randint(3, 11, (3, 6)), torch.randint(3, 13, (3, 4))


def build(config: dict[str, Any], model_name: str, **replaced: Any) -> Network:
    """The model of a config, with another attention factory if asked for."""
    sizes = SIZES.get(model_name, {"source_vocab_size": 11, "target_vocab_size": 13})
    node = {key: value for key, value in config["model"].items() if key not in replaced}
    model: Network = create(node, **sizes, **replaced)
    return model


def attention_arguments(config: dict[str, Any]) -> list[str]:
    """Which of a model's arguments are attention factories."""
    return [key for key, value in config["model"].items() if key.endswith("attention") and value]


def without_gradient(model: nn.Module) -> set[str]:
    """The parameters that a mechanism does not use, by what the mechanism is.

    Uniform attention does not look at its queries. Only in a Transformer's cross-attention does
    nothing else use them, so there the norm in front of them learns nothing.
    """
    idle = set()
    for name, layer in attention_layers(model).items():
        if name.endswith("cross_attention") and isinstance(getattr(layer, "score", None), Uniform):
            norm = name.replace("cross_attention", "cross_norm")
            idle |= {f"{norm}.{parameter}" for parameter in ("weight", "bias")}
    return idle & {name for name, _ in model.named_parameters()}


def test_loss_is_finite_and_gradients_reach_every_parameter(
    config: dict[str, Any], model_name: str
) -> None:
    model, inputs = build(config, model_name), inputs_of(model_name)
    logits = model(*inputs)
    labels = torch.randint(0, 13, logits.shape[:-1])
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    loss.backward()
    assert loss.isfinite()
    idle = without_gradient(model)
    for name, parameter in model.named_parameters():
        if name in idle:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_axes_name_exactly_the_attention_layers_and_their_maps_fit(
    config: dict[str, Any], model_name: str
) -> None:
    model, inputs = build(config, model_name), inputs_of(model_name)
    axes = model.attention_axes()
    assert list(axes) == list(attention_layers(model))
    lengths = {
        "input": inputs[0].shape[1],
        "source": inputs[0].shape[1],
        "target": inputs[-1].shape[1],
        "both": inputs[0].shape[1] + inputs[-1].shape[1],
    }
    with torch.no_grad(), record_attention(model) as calls:
        model(*inputs)
    for name, (rows, columns) in axes.items():
        layer = attention_layers(model)[name]
        if not layer.info.weights:
            assert not calls[name]
            continue
        weights = torch.cat(calls[name], dim=2)
        assert weights.shape == (3, layer.num_heads, lengths[rows], lengths[columns])
        if layer.info.distribution:
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def check_initialisation_is_kept(
    factories: dict[str, AttentionFactory], make: Callable[..., Network]
) -> None:
    """What a factory made is what the finished model holds, to the bit."""
    made: list[tuple[AttentionLayer, dict[str, Tensor]]] = []

    def spy(factory: AttentionFactory) -> AttentionFactory:
        def make_twice(*sizes: int) -> AttentionLayer:
            before = torch.random.get_rng_state()
            layer = factory(*sizes)
            after = torch.random.get_rng_state()
            torch.random.set_rng_state(before)
            alone = factory(*sizes)
            torch.random.set_rng_state(after)
            made.append((layer, {k: v.clone() for k, v in alone.state_dict().items()}))
            return layer

        return make_twice

    model = make(**{key: spy(factory) for key, factory in factories.items()})
    layers = list(attention_layers(model).values())
    assert {id(layer) for layer, _ in made} == {id(layer) for layer in layers}
    assert len(made) == len(layers)
    for layer, alone in made:
        assert layer.state_dict().keys() == alone.keys()
        for name, value in layer.state_dict().items():
            assert torch.equal(value, alone[name]), name


def test_a_mechanism_keeps_its_own_initialisation(config: dict[str, Any], model_name: str) -> None:
    factories = {key: create(config["model"][key]) for key in attention_arguments(config)}
    check_initialisation_is_kept(factories, partial(build, config, model_name))


class Overwrites(EncoderDecoder):
    """Initializes everything in it, as GPT-2 does, attention included."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.apply(self.overwrite)

    @staticmethod
    def overwrite(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)


def test_a_model_that_overwrites_it_is_caught() -> None:
    factories: dict[str, AttentionFactory] = {"cross_attention": ATTENTION}
    check_initialisation_is_kept(factories, partial(EncoderDecoder, 11, 13, d_model=16))
    with pytest.raises(AssertionError, match="projection"):
        check_initialisation_is_kept(factories, partial(Overwrites, 11, 13, d_model=16))


def test_mechanisms_differ_in_what_they_compute(compose: Compose) -> None:
    """Same seed, same model: each mechanism gives other logits (so `attention=` is heard)."""
    logits = {}
    inputs, able = inputs_of("encoder_decoder"), [a for a in ATTENTIONS if a not in NEVER_ACROSS]
    for name in able:
        torch.manual_seed(0)
        other = ["+attention@model.self_attention=none"] if name in NEVER_CAUSAL else []
        config = compose(f"attention={name}", "model.d_model=16", *other)
        model = build(config, "encoder_decoder").eval()
        with torch.no_grad():
            for parameter in model.parameters():  # some begin as what they generalize
                parameter += 0.05 * torch.randn_like(parameter)
        logits[name] = model(*inputs)
    for one in able:
        for other in able:
            if one < other:
                assert not torch.allclose(logits[one], logits[other], atol=1e-4), (one, other)
