"""The hyperparameters that loggers get: flat, readable, complete and without collisions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_lab.config.flatten import flatten
from attention_lab.tracking.hyperparameters import hyperparameters
from attention_lab.tracking.run_name import LONGEST_NAME, run_name
from tests.conftest import Compose

PLAIN = st.text("ab_.", min_size=1, max_size=3).filter(lambda key: key[0] != "_")
NESTED = st.recursive(
    st.integers(), lambda inner: st.dictionaries(PLAIN, inner, min_size=1), max_leaves=8
)


def test_components_are_named_by_their_options(compose: Compose) -> None:
    config = compose("attention=additive", "data=g2p", "model=encoder_decoder")
    choices = {"attention": "additive", "attention.score": "additive", "data": "g2p"}
    found = hyperparameters({**config, "choices": {**choices, "experiment": "mine"}})
    assert (found["attention"], found["attention_score"]) == ("additive", "additive")
    assert (found["data"], found["model"]) == ("g2p", "EncoderDecoder")
    assert (found["attention_num_heads"], found["optimizer_lr"], found["seed"]) == (1, 0.001, 0)
    assert found["experiment"] == "mine"


def test_keys_have_no_dots_and_a_mechanism_is_there_once(compose: Compose) -> None:
    found = hyperparameters(compose())
    assert not [key for key in found if "." in key or "target" in key or "logger" in key]
    assert [key for key in found if key.endswith("num_heads")] == ["attention_num_heads"]


def test_another_mechanism_of_the_model_is_kept(compose: Compose) -> None:
    config = compose("+attention@model.self_attention=local")
    found = hyperparameters({**config, "choices": {"model.self_attention": "local"}})
    assert (found["model_self_attention"], found["model_self_attention_radius"]) == ("local", 10)


@given(st.dictionaries(PLAIN, NESTED))
def test_no_value_is_lost_to_a_collision(config: dict[str, Any]) -> None:
    found = hyperparameters(config)
    values = sorted(value for _, value in flatten(config)) if config else []
    assert sorted(found.values()) == values


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+attention@model.self_attention=local", "seed=0"], "self_attention local · seed 0"),
        (["data.seed=1", "seed=2"], "data seed 1 · seed 2"),
        (["optimizer.lr=0.0012345678", "seed=1"], "lr 0.001235 · seed 1"),
        (["optimizer.betas=[0.9,0.98]", "attention.bias=true"], "betas [0.9,0.98] · bias true"),
        (["seed=0", "seed=1"], "seed 1"),
        ([], ""),
    ],
)
def test_a_name_has_each_override_in_words(overrides: list[str], expected: str) -> None:
    assert run_name(overrides) == expected


def test_a_name_is_no_longer_than_wandb_allows() -> None:
    name = run_name([f"data.key_{number}=value" for number in range(20)])
    assert len(name) == LONGEST_NAME
    assert name.endswith("…")
