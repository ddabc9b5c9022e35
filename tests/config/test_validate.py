"""Invalid configs are refused with one line before anything is built."""

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from attention_lab.attention import Causal, ScaledDotProduct, ScoredAttention, Softmax
from attention_lab.config.components import ConfigError, check_node, create
from attention_lab.config.imports import import_object
from attention_lab.config.validate import check
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.synthetic.copying import Copy
from attention_lab.models.base import Network
from attention_lab.tracking.wandb_logger import WandbOptions
from attention_lab.training.lr_schedules import Cosine, Schedule
from attention_lab.training.optim import ParameterGroups
from tests.conftest import Compose


def put(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The config with one nested value replaced."""
    *branch, last = path.split(".")
    functools.reduce(lambda node, key: node[key], branch, config)[last] = value
    return config


def error_message(config: dict[str, Any]) -> str:
    """The message of the error that a config raises; it must be one line."""
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("optimizer.lrr", "optimizer.lrr: AdamW has no such key; did you mean lr?"),
        ("trainer.max_epoch", "TrainerOptions has no such key; did you mean max_epochs?"),
        ("attention.num_head", "ScoredAttention has no such key; did you mean num_heads?"),
        ("data.batchsize", "data.batchsize: G2P has no such key; did you mean batch_size?"),
        ("model.num_encoder_layer", "did you mean num_encoder_layers?"),
        ("task.max_len", "did you mean max_length?"),
        (
            "logger.wandb.projet",
            "WandbOptions has no such key; did you mean project?",
        ),
        ("attention.score.hidden", "attention.score.hidden: Additive has no such key; did you"),
        (
            "optimizer.zzz",
            "no such key; available: lr, betas, eps, weight_decay, amsgrad, maximize",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_real_one(
    path: str, message: str, compose: Compose
) -> None:
    assert message in error_message(put(compose("attention=additive"), path, 1))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimizer.lr", "abc", "optimizer.lr: input should be a valid number; got 'abc'"),
        ("optimizer.lr", "0.1", "optimizer.lr: input should be a valid number; got '0.1'"),
        ("optimizer.lr", True, "optimizer.lr: input should be a valid number; got True"),
        ("optimizer.lr", None, "optimizer.lr: input should be a valid number; got None"),
        (
            "optimizer.betas",
            0.9,
            "optimizer.betas: input should be a valid list, as in [1,5]; got 0.9",
        ),
        ("optimizer.betas", [0.9, "x"], "optimizer.betas: input should be a valid number; got"),
        ("trainer.strategy", "deepspeed", "input should be 'ddp', 'fsdp', 'auto' or "),
        ("trainer.max_epochs", 1.5, "trainer.max_epochs: input should be a valid integer; got 1.5"),
        ("trainer.max_epochs", True, "trainer.max_epochs: input should be a valid integer; got T"),
        (
            "trainer.enable_progress_bar",
            1,
            "trainer.enable_progress_bar: input should be a valid boolean; got 1",
        ),
        ("trainer.deterministic", "yes", "trainer.deterministic: input should be"),
        ("trainer.precision", "17", "trainer.precision: input should be '32-true'"),
        (
            "attention.num_heads",
            2.0,
            "attention.num_heads: input should be a valid integer; got 2.0",
        ),
        ("attention.score.hidden_dim", "8", "attention.score.hidden_dim: input should be a valid"),
        ("attention.projections", "keys", "input should be 'all', 'values' or 'none'; got 'keys'"),
        ("model.d_model", "wide", "model.d_model: input should be a valid integer; got 'wide'"),
        ("data.limit", 0.5, "data.limit: input should be a valid integer; got 0.5"),
        ("data.stress", "no", "data.stress: input should be a valid boolean; got 'no'"),
        ("logger.wandb.project", 3, "logger.wandb.project: input should be a valid string; got 3"),
        ("seed", 1.0, "seed: must be a whole number from 0 to 2³² - 1, got 1.0"),
        ("seed", -1, "seed: must be a whole number from 0 to 2³² - 1, got -1"),
        ("seed", 2**32, "seed: must be a whole number from 0 to 2³² - 1, got 4294967296"),
        ("seed", True, "seed: must be a whole number from 0 to 2³² - 1, got True"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(
    path: str, value: object, message: str, compose: Compose
) -> None:
    assert message in error_message(put(compose("attention=additive"), path, value))


def test_a_number_is_not_accepted_as_a_list(compose: Compose) -> None:
    said = error_message(put(compose("data=reverse"), "data.lengths", 5))
    assert said == "data.lengths: input should be a valid list, as in [1,5]; got 5"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer.lr", 1),  # a whole number is a number
        ("optimizer.betas", [0, 0.9]),
        ("trainer.val_check_interval", 2),
        ("trainer.max_epochs", None),
        ("trainer.max_steps", None),
        ("attention.head_dim", None),
        ("attention.mask", {"_target_": "attention_lab.attention.Causal"}),
        ("seed", 2**32 - 1),
    ],
)
def test_valid_values_are_accepted(path: str, value: object, compose: Compose) -> None:
    check(put(compose("attention=additive"), path, value))


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``trap`` whose functions and foreign classes leave a mark when they are called."""
    mark = tmp_path / "it was called"
    (tmp_path / "trap.py").write_text(
        "from pathlib import Path\n"
        f"def function(*_, **__): Path({str(mark)!r}).touch()\n"
        "class Foreign:\n"
        "    def __init__(self, *_, **__): function()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    return mark


@pytest.mark.parametrize("path", ["attention", "model", "data", "task", "optimizer"])
@pytest.mark.parametrize("target", ["trap.function", "trap.Foreign", "torch.load"])
def test_a_section_accepts_only_subclasses_of_its_base_class(
    path: str, target: str, trap: Path, compose: Compose
) -> None:
    assert f"{path}._target_: {target} is not a" in error_message(
        put(compose(), f"{path}._target_", target)
    )
    assert not trap.exists()


@pytest.mark.parametrize("path", ["attention.score", "attention.normalizer", "attention.mask"])
@pytest.mark.parametrize("target", ["trap.function", "trap.Foreign", "torch.load"])
def test_a_nested_node_accepts_only_modules_and_masks(
    path: str, target: str, trap: Path, compose: Compose
) -> None:
    config = put(compose(), path, {"_target_": target})
    kind = {"score": "Score", "normalizer": "Normalizer", "mask": "Mask"}[path.partition(".")[2]]
    assert f"{path}._target_: {target} is not a {kind}" in error_message(config)
    assert not trap.exists()


def test_attention_inside_a_model_is_checked(compose: Compose, trap: Path) -> None:
    config = put(compose(), "model.cross_attention.score._target_", "trap.function")
    assert "model.cross_attention.score._target_: trap.function is not a" in error_message(config)
    assert not trap.exists()


DANGEROUS = ["trap.function", "trap.Foreign", "torch.load", "numpy.load", "joblib.load"]


@pytest.mark.parametrize("target", [*DANGEROUS, "os.system", "subprocess.Popen", "builtins.eval"])
def test_create_refuses_classes_that_are_not_allowed(target: str, trap: Path) -> None:
    """Code that calls ``create`` without a check, as Hydra can, creates allowed classes only."""
    node = {"_target_": target, "args": f"touch {trap}"}
    kinds = [(), ((Network,),), ((WandbOptions,),)]
    for kind in kinds:
        with pytest.raises(ConfigError, match=f"{target} is not a|cannot import {target}"):
            create(node, *kind)
    with pytest.raises(ConfigError, match=target):
        create({"_target_": "attention_lab.attention.Softmax", "inner": node})
    assert not trap.exists()


def test_the_trap_detects_a_call(trap: Path) -> None:
    """Otherwise the tests above would also pass if the trap could not be imported."""
    assert callable(torch.load)
    import_object("trap.function")()  # type: ignore[operator]
    assert trap.exists()


@pytest.mark.parametrize("target", ["os.system", "antigravity.fly", "subprocess.Popen"])
def test_the_standard_library_is_not_imported_for_a_config(target: str, compose: Compose) -> None:
    said = error_message(put(compose(), "attention.score._target_", target))
    assert said.endswith(f"cannot import {target} (the standard library has no components)")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("attention._partial_", "abc", "attention._partial_: input should be a valid boolean; got"),
        ("attention._partial_", 1, "attention._partial_: input should be a valid boolean; got 1"),
        ("attention._partial_", False, "attention: ScoredAttention needs _partial_: true here"),
        ("optimizer._partial_", False, "optimizer: AdamW needs _partial_: true here"),
        ("scheduler._partial_", True, "scheduler: Cosine must not have _partial_: true here"),
        ("data._partial_", True, "data: G2P must not have _partial_: true here"),
        ("attention._args_", [1, 2], "attention._args_: ScoredAttention has no such key"),
        ("model._args_", [], "model._args_: EncoderDecoder has no such key"),
        ("attention._recursive_", True, "attention._recursive_: ScoredAttention has no such key"),
        ("attention.score._convert_", "all", "attention.score._convert_: ScaledDotProduct has no"),
        ("trainer._x_", None, "trainer._x_: TrainerOptions has no such key"),
    ],
)
def test_keys_with_underscores_are_checked_like_others(
    path: str, value: object, message: str, compose: Compose
) -> None:
    assert message in error_message(put(compose(), path, value))


@pytest.mark.parametrize(
    ("path", "target", "kind"),
    [
        ("model", "attention_lab.data.bundled.g2p.G2P", "Network"),
        ("data", "attention_lab.training.trainer.TrainerOptions", "SplitDataModule"),
        ("optimizer", "attention_lab.training.trainer.TrainerOptions", "Optimizer"),
        ("trainer", "attention_lab.training.optim.ParameterGroups", "TrainerOptions"),
        ("scheduler", "torch.optim.lr_scheduler.StepLR", "Schedule"),
        ("logger.wandb", "attention_lab.training.trainer.TrainerOptions", "Logger or WandbOptio"),
        ("task", "torch.nn.Linear", "AttentionTask"),
        ("attention", "torch.nn.MultiheadAttention", "AttentionLayer"),
    ],
)
def test_a_class_without_the_sections_base_class_is_refused(
    path: str, target: str, kind: str, compose: Compose
) -> None:
    message = f"{path}._target_: {target} is not a {kind}"
    assert message in error_message(put(compose(), f"{path}._target_", target))


class FromFile(Copy):
    """A user's dataset with an argument that has no default."""

    def __init__(self, path: str) -> None:
        super().__init__()


class Descent(torch.optim.Optimizer):
    """A user's optimizer with a learning rate that has no default."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})


def test_positional_arguments_of_users_classes_can_be_set() -> None:
    check_node("data", {"_target_": f"{__name__}.FromFile", "path": "x.tsv"}, SplitDataModule)
    node = {"_target_": f"{__name__}.Descent", "_partial_": True, "lr": 0.1}
    check_node("optimizer", node, torch.optim.Optimizer)


@pytest.mark.parametrize(
    "target",
    ["no_such_module.Thing", "attention_lab.attention.NoSuchThing", "Softmax", "", ".", None, 3],
)
def test_a_target_that_cannot_be_imported_is_refused(target: object, compose: Compose) -> None:
    config = put(compose(), "attention.normalizer._target_", target)
    assert f"attention.normalizer._target_: cannot import {target}" in error_message(config)


@pytest.mark.parametrize("value", [None, "additive", {}, {"num_heads": 2}])
@pytest.mark.parametrize("section", ["attention", "model", "data", "task", "trainer"])
def test_a_missing_section_is_refused(section: str, value: object, compose: Compose) -> None:
    message = f"{section}: must be a config group's option, with a _target_"
    assert message in error_message(put(compose(), section, value))
    config = compose()
    del config[section]
    no_task = "task: the dataset's YAML file chooses none; add `defaults: ["
    missing = no_task if section == "task" else message
    assert missing in error_message(config)


def test_data_model_and_task_must_be_for_the_same_task(compose: Compose) -> None:
    message = error_message(compose("data=digits", "model=encoder_decoder"))
    assert "model: EncoderDecoder is for sequence_to_sequence, but the data is for" in message
    assert "classification; `attention-lab list` shows the others" in message
    message = error_message(compose("data=g2p", "model=self_attention_classifier"))
    assert "model: SelfAttentionClassifier is for classification" in message
    config = compose("data=digits", "model=self_attention_classifier")
    config["task"] = compose()["task"]
    assert "task: SequenceToSequence is for sequence_to_sequence" in error_message(config)


def test_an_unknown_section_is_refused(compose: Compose) -> None:
    """`attention-lab train +optimiser.lr=1` must not train with another learning rate."""
    assert "optimiser: there is no such" in error_message(compose() | {"optimiser": {"lr": 1}})


@pytest.mark.parametrize("key", ["args", "kwargs"])
def test_names_of_variable_arguments_are_not_keys(key: str, compose: Compose) -> None:
    config = put(compose(), f"attention.normalizer.{key}", 1)
    assert f"attention.normalizer.{key}: Softmax has no such key" in error_message(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer.lr", {"_target_": "attention_lab.attention.Causal"}),
        ("optimizer.lr", {"peak": 1}),
        ("attention.mask", {"_target_": "attention_lab.attention.Softmax"}),
        ("attention.mask", {"causal": True}),
        ("attention.normalizer", {"_target_": "torch.nn.Identity", "_partial_": True}),
        ("attention.score", {"_target_": "attention_lab.attention.Softmax", "_partial_": True}),
        ("attention.score", {"_target_": "attention_lab.attention.DotProduct"}),  # not partial
    ],
)
def test_a_nested_node_must_match_the_annotation_of_its_argument(
    path: str, value: object, compose: Compose
) -> None:
    assert path in error_message(put(compose(), path, value))


def test_a_missing_argument_is_refused(compose: Compose) -> None:
    config = compose()
    del config["attention"]["score"]
    assert "attention.score" in error_message(config)


def test_create_creates_the_object_of_a_node() -> None:
    node = {"_target_": f"{Cosine.__module__}.Cosine", "warmup_steps": 5}
    assert create(node, (Schedule,)) == Cosine(warmup_steps=5)


def test_create_creates_nested_nodes_first_and_returns_functions_for_partial_ones(
    compose: Compose,
) -> None:
    factory = create(compose("attention=masked")["attention"])
    assert isinstance(factory, functools.partial)
    layer = factory(16, 16)
    assert isinstance(layer, ScoredAttention)
    assert isinstance(layer.score, ScaledDotProduct)
    assert isinstance(layer.normalizer, Softmax)
    assert layer.mask == Causal()
    assert layer.num_heads == 8
    assert factory(16, 16).score is not layer.score


def test_create_passes_given_objects_without_copying() -> None:
    factors = {"*": 0.5}
    node = {"_target_": f"{ParameterGroups.__module__}.ParameterGroups"}
    assert create(node, (ParameterGroups,), lr_factors=factors).lr_factors is factors


def test_an_object_gets_its_own_copy_of_a_list() -> None:
    """The jobs of a sweep share the lists of their configs, and a class may change its argument."""
    betas = [0.9, 0.98]
    node = {"_target_": "torch.optim.AdamW", "_partial_": True, "betas": betas}
    assert create(node, (Optimizer,)).keywords["betas"] == betas
    assert create(node, (Optimizer,)).keywords["betas"] is not betas
