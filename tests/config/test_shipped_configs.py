"""Every option in conf/ is valid and lists the arguments of its class."""

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from torch.optim import Optimizer

from attention_lab.attention import AttentionLayer, FeatureMap, Positions, Score
from attention_lab.config.compose import (
    add_score_mechanisms,
    config_directory,
    group_options,
    plain_config,
    subgroups,
)
from attention_lab.config.validate import GIVEN as GIVEN_TO_MANY
from attention_lab.config.validate import SECTIONS, SECTIONS_OF_MANY, check
from tests.conftest import Compose

OPTIONS = [
    (group, option)
    for group in (*SECTIONS, *SECTIONS_OF_MANY, "experiment", "debug")
    for option in group_options(group)
    if group != "task"  # chosen by the dataset
]
TARGETS = [
    (group, option) for group in (*SECTIONS, *SECTIONS_OF_MANY) for option in group_options(group)
]
AXES = [
    (axis, option)
    for axis in subgroups("attention")
    for option in group_options(f"attention/{axis}")
]

#: A dataset for each task and model; for all others it is g2p.
DATA_FOR = {
    "classification": "digits",
    "language_model": "recall",
    "self_attention_classifier": "digits",
    "encoder_classifier": "digits",
    "decoder": "recall",
}

#: Arguments that are in no config, because code passes them: sizes and objects.
GIVEN = {
    "EncoderDecoder": {"source_vocab_size", "target_vocab_size", "padding_idx"},
    "RecurrentEncoderDecoder": {"source_vocab_size", "target_vocab_size", "padding_idx"},
    "SelfAttentionClassifier": {"in_features", "num_classes", "max_length"},
    "PrefixDecoder": {"source_vocab_size", "target_vocab_size", "padding_idx"},
    "EncoderClassifier": {"in_features", "vocab_size", "num_classes", "max_length", "padding_idx"},
    "Decoder": {"vocab_size", "max_length"},
    "LanguageModel": {"model", "data", "optimization"},
    "SequenceToSequence": {"model", "data", "optimization"},
    "Classification": {"model", "data", "optimization"},
}

#: Nodes that are equivalent to the default of an argument.
SAME_AS_DEFAULT = {
    "mask": {"_target_": "attention_lab.attention.masks.NoMask"},
}

#: Such arguments of every subclass of a base class.
GIVEN_TO_PARTS = {
    AttentionLayer: {"embed_dim", "kdim"},
    Score: {"num_heads", "head_dim"},
    Positions: {"num_heads", "head_dim"},
    FeatureMap: {"head_dim"},
    Optimizer: {"params"},
}

#: Values in which an option differs from its class's defaults on purpose.
DEVIATIONS = {
    "attention=multi_head": {"num_heads": 8},
    "attention=masked": {
        "num_heads": 8,
        "mask": {"_target_": "attention_lab.attention.masks.Causal"},
    },
    "attention=grouped_query": {"num_heads": 8, "num_kv_heads": 2},
    "attention=multi_query": {"num_heads": 8, "num_kv_heads": 1},
    "attention=latent": {"num_heads": 8, "latent_dim": 32},
    "attention=talking_heads": {"num_heads": 8, "talking_heads": True},
    "attention=gated": {"num_heads": 8, "gate": True},
    "attention=sparsemax": {"num_heads": 8},
    "attention=sigmoid": {"num_heads": 8},
    "attention=linear": {"num_heads": 8},
    "attention=performer": {"num_heads": 8},
    "attention=linformer": {"num_heads": 8},
    "attention=nystrom": {"num_heads": 8},
    "attention=differential": {"num_heads": 8},
    "optimizer=adamw": {"betas": [0.9, 0.98]},
    "optimizer=nadam": {
        "lr": 1e-3,
        "betas": [0.9, 0.98],
        "weight_decay": 0.01,
        "decoupled_weight_decay": True,
    },
    "optimizer=radam": {
        "betas": [0.9, 0.98],
        "weight_decay": 0.01,
        "decoupled_weight_decay": True,
    },
    "optimizer=sgd": {"lr": 0.1, "momentum": 0.9},
    "optimizer=muon": {"betas": [0.9, 0.98]},
    "scheduler=cosine": {"warmup_steps": 100, "min_lr_ratio": 0.05},
    "scheduler=linear": {"warmup_steps": 100},
    "scheduler=wsd": {"warmup_steps": 100},
    "trainer=cpu": {"accelerator": "cpu"},
    "trainer=gpu": {"accelerator": "gpu", "precision": "bf16-mixed"},
    "trainer=ddp": {"accelerator": "gpu", "precision": "bf16-mixed", "devices": 8},
    "trainer=fsdp": {
        "accelerator": "gpu",
        "precision": "bf16-mixed",
        "devices": 8,
        "strategy": "fsdp",
    },
    "trainer=ddp_cpu": {"accelerator": "cpu", "devices": 2},
    "callbacks=early_stopping": {"check_on_train_epoch_end": False},
    "callbacks=model_summary": {"max_depth": 3},
    "callbacks=timer": {"duration": "00:12:00:00"},
    "logger=tensorboard": {"name": "tensorboard", "version": "", "default_hp_metric": False},
    "logger=mlflow": {"experiment_name": "attention-lab"},
    "logger=comet": {"project": "attention-lab"},
}


def overrides_for(group: str, option: str) -> list[str]:
    """The overrides that choose an option, and other options that it needs."""
    if group == "task":
        group, option = "data", DATA_FOR.get(option, "g2p")
    if group == "model":
        return [f"data={DATA_FOR.get(option, 'g2p')}", f"{group}={option}"]
    return [f"{group}={option}"]


def nodes(path: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A node and the nodes inside it, without those of a model's attention."""
    if "_target_" in node:
        yield path, node
    for key, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value and not key.endswith("attention"):
            yield from nodes(f"{path}.{key}", value)


def parameters(node: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a node's class."""
    return {
        name: parameter
        for name, parameter in inspect.signature(component(node)).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def given(node: Mapping[str, Any]) -> set[str]:
    """The arguments of a node's class that code passes."""
    found = component(node)
    by_kind = (names for kind, names in GIVEN_TO_PARTS.items() if issubclass(found, kind))
    return GIVEN.get(found.__name__, set()).union(*by_kind)


def is_given(group: str, name: str, value: object) -> bool:
    """Whether the program replaces an option's value, which is null."""
    return value is None and name in GIVEN_TO_MANY.get(group, ())


def component(node: Mapping[str, Any]) -> type:
    """The class of a node."""
    module, _, name = node["_target_"].rpartition(".")
    found: type = getattr(import_module(module), name)
    return found


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_is_valid(group: str, option: str, compose: Compose) -> None:
    check(compose(*overrides_for(group, option)))


@pytest.mark.parametrize(("group", "option"), TARGETS)
def test_an_option_lists_exactly_the_arguments_of_its_class(
    group: str, option: str, compose: Compose
) -> None:
    config = compose(*overrides_for(group, option))
    for path, node in nodes(group, config[group]):
        listed = {key for key in node if not key.startswith("_")}
        assert listed == parameters(node).keys() - given(node), path


@pytest.mark.parametrize(("group", "option"), TARGETS)
def test_an_option_has_the_defaults_of_its_class_unless_listed(
    group: str, option: str, compose: Compose
) -> None:
    config = compose(*overrides_for(group, option))
    deviations = {}
    for path, node in nodes(group, config[group]):
        for name, parameter in parameters(node).items():
            if parameter.default is parameter.empty or name not in node:
                continue
            default = parameter.default
            if repr(default) == "<factory>":  # of a dataclass
                default = getattr(component(node)(), name)
            default = list(default) if isinstance(default, tuple) else default  # YAML knows lists
            if node[name] in (SAME_AS_DEFAULT.get(name), default) or is_given(
                group, name, node[name]
            ):
                continue
            if not (isinstance(node[name], dict) and inspect.isclass(default)):
                here = f"{group}.{option}." if group in SECTIONS_OF_MANY else f"{group}."
                deviations[f"{path}.{name}".removeprefix(here)] = node[name]
    assert deviations == DEVIATIONS.get(f"{group}={option}", {})


@pytest.mark.parametrize(("axis", "option"), AXES)
def test_an_axis_lists_exactly_the_arguments_of_its_class(
    axis: str, option: str, compose: Compose
) -> None:
    base = {"feature_map": "linear"}.get(axis, "scaled_dot_product")
    config = compose(f"attention={base}", f"attention/{axis}={option}")
    check(config)
    for path, node in nodes(axis, config["attention"][axis]):
        listed = {key for key in node if not key.startswith("_")}
        assert listed == parameters(node).keys() - given(node), path
        for name, parameter in parameters(node).items():
            if name in listed and not isinstance(node[name], dict):
                deviates = (option, name) in {
                    ("tempered_softmax", "learned"),
                    ("global_tokens", "window"),
                    ("global_tokens", "centred"),
                }
                assert (node[name] != parameter.default) == deviates, f"{path}.{name}"


def test_every_listed_deviation_belongs_to_an_option() -> None:
    assert set(DEVIATIONS) <= {f"{group}={option}" for group, option in TARGETS}


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if g == "experiment"])
def test_every_job_of_an_experiments_sweep_is_valid(group: str, option: str) -> None:
    add_score_mechanisms()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        whole = hydra_compose("train", [f"{group}={option}"], return_hydra_config=True)
        swept = whole.hydra.sweeper.params or {}
        for name, values in swept.items():
            for value in str(values).split(","):
                job = [f"{group}={option}", f"{name}={value}"]
                config = hydra_compose("train", job, return_hydra_config=True)
                check(plain_config(config, config.hydra))


def test_every_option_begins_with_a_description() -> None:
    for group, option in (*OPTIONS, *TARGETS):
        text = group_options(group)[option].read_text("utf-8")
        comments = [line for line in text.splitlines() if not line.startswith("# @package")]
        assert comments[0].startswith("# "), f"{group}/{option}"
        assert yaml.safe_load(text) is not None


def test_the_data_have_the_runs_seed_by_default(compose: Compose) -> None:
    for data in group_options("data"):
        config = compose(*overrides_for("data", data), "seed=5")
        assert config["data"]["seed"] == config["seed"] == 5


def test_self_attention_may_be_another_mechanism(compose: Compose) -> None:
    """As the comment in conf/model/encoder_decoder.yaml says."""
    config = compose("attention=additive", "+attention@model.self_attention=multi_head")
    check(config)
    assert config["model"]["self_attention"] == compose("attention=multi_head")["attention"]
    assert config["model"]["cross_attention"] == compose("attention=additive")["attention"]
