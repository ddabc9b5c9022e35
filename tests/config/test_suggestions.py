"""Hydra's error messages have the form that our explanations parse."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from attention_lab.config.compose import add_score_mechanisms, config_directory
from attention_lab.config.suggestions import SEVERAL_VALUES, UNKNOWN_KEY


def hydras_error(override: str) -> Exception:
    """The exception that Hydra raises for an override."""
    add_score_mechanisms()
    with (
        initialize_config_dir(str(config_directory().resolve()), version_base="1.3"),
        pytest.raises((HydraException, OmegaConfBaseException)) as raised,
    ):
        compose("train", [override])
    return raised.value


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seeed=1", "seeed"),
        ("optimizer.foo=1", "optimizer.foo"),
        ("~seeed", "seeed"),
        ("atention=additive", "atention"),
        ("attention/feature_map=elu", "attention/feature_map"),
        ("attention@model.x=linear", "attention@model.x"),
    ],
)
def test_hydra_names_an_unknown_key_as_expected(override: str, key: str) -> None:
    match = UNKNOWN_KEY.search(str(hydras_error(override)))
    assert match is not None
    assert match[1] == key


def test_hydra_names_several_values_as_expected() -> None:
    assert str(hydras_error("seed=1,2")).startswith(SEVERAL_VALUES)


def test_hydra_lists_the_options_of_a_group() -> None:
    error = hydras_error("attention=aditive")
    assert isinstance(error, MissingConfigException)
    assert str(error.missing_cfg_file) == "attention/aditive"
    assert "additive" in (error.options or [])
