"""The name of a sweep's directory: equal for equal sweeps, different for different sweeps."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from attention_lab.cli.sweep_name import sweep_name
from attention_lab.config.compose import add_score_mechanisms, config_directory


def name(*overrides: str, swept: tuple[str, ...] = ("seed=0,1",)) -> str:
    """The name of a sweep; Hydra composes it without the swept overrides."""
    add_score_mechanisms()
    with initialize_config_dir(str(config_directory().resolve()), version_base="1.3"):
        config: DictConfig = compose("train", list(overrides), return_hydra_config=True)
    config.hydra.overrides.task = [*overrides, *swept]
    return sweep_name(config)


PLAIN = "data=digits", "model=self_attention_classifier"


def test_a_sweep_name_is_readable_and_has_only_plain_characters() -> None:
    assert re.fullmatch(r"digits-seed-[0-9a-f]{8}", name(*PLAIN))
    assert re.fullmatch(r"demo-[0-9a-f]{8}", name("experiment=demo", swept=()))


@pytest.mark.parametrize(
    "same",
    [
        ("logger=csv",),
        ("trainer.enable_progress_bar=false",),
        ("sweep.retry=failed",),
        ("sweep.max_failures=2",),
        ("sweep.keep=best",),
        ("hydra.launcher.parallel=3",),
    ],
)
def test_overrides_that_change_no_result_do_not_change_the_name(same: tuple[str, ...]) -> None:
    assert name(*PLAIN, *same) == name(*PLAIN)


def test_the_order_of_swept_keys_does_not_matter() -> None:
    swept = "seed=0,1", "attention=general,none"
    both = name(*PLAIN, swept=swept), name(*PLAIN, swept=swept[::-1])
    assert len({each.rpartition("-")[2] for each in both}) == 1


@pytest.mark.parametrize(
    ("other", "swept"),
    [
        (("trainer.max_epochs=3",), ("seed=0,1",)),
        (("sweep.tune=lr",), ("seed=0,1",)),
        (("seed=2",), ("attention=general,none",)),
        ((), ("seed=0,2",)),
    ],
)
def test_overrides_that_change_a_run_change_the_name(
    other: tuple[str, ...], swept: tuple[str, ...], tmp_path: Path
) -> None:
    assert name(*PLAIN, *other, swept=swept) != name(*PLAIN)
