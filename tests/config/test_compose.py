"""The names of chosen options, which a run records."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from attention_lab.config.compose import add_score_mechanisms, config_directory, option_names


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["attention=additive"], {"attention": "additive", "data": "g2p", "optimizer": "adamw"}),
        (["experiment=recall"], {"experiment": "recall", "data": "recall", "model": "decoder"}),
        ([], {"task": "sequence_to_sequence", "attention.score": "scaled_dot_product"}),
        (
            ["attention=multi_head", "attention/score=additive", "attention/mask=causal"],
            {"attention": "multi_head score=additive mask=causal", "attention.mask": "causal"},
        ),
        (
            ["+attention@model.self_attention=local"],
            {"attention": "scaled_dot_product", "model.self_attention": "local"},
        ),
    ],
)
def test_options_are_named_by_their_paths(overrides: list[str], expected: dict[str, str]) -> None:
    add_score_mechanisms()
    with initialize_config_dir(str(config_directory().resolve()), version_base="1.3"):
        config = hydra_compose("train", overrides, return_hydra_config=True)
    names = option_names(config, config.hydra)
    assert {path: names.get(path) for path in expected} == expected
    assert not [path for path in names if path.startswith(("hydra", "local"))]
