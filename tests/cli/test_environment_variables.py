"""Values that a config takes from environment variables are used, but not recorded."""

import json
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from attention_lab.config.components import ConfigError
from attention_lab.config.compose import (
    add_score_mechanisms,
    composed,
    config_directory,
    plain_config,
)
from attention_lab.config.environment_variables import with_environment
from attention_lab.config.identity import identity
from attention_lab.tracking.run_config import resolve
from attention_lab.tracking.run_directory import read_config
from attention_lab.training.build import build
from tests.cli.conftest import Command
from tests.conftest import TINY_DIGITS

SECRET = "0123456789abcdef-secret"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("NUMBER", "7")
    monkeypatch.setenv("CHOICE", "strategy")
    monkeypatch.delenv("NOWHERE", raising=False)


def plain(*overrides: str) -> dict[str, object]:
    """The part of a composed config that records, W&B and jobs get."""
    add_score_mechanisms()
    with initialize_config_dir(str(config_directory().resolve()), version_base="1.3"):
        config = hydra_compose("train", list(overrides), return_hydra_config=True)
    return plain_config(config, config.hydra)


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        ("${oc.env:SECRET}", "${oc.env:SECRET}"),
        ("${oc.env:SECRET,x}", "${oc.env:SECRET}"),
        ("a-${oc.env:SECRET}/b", "a-${oc.env:SECRET}/b"),
        ("${logger.wandb.entity}", "${oc.env:SECRET}"),
        ("${oc.select:nothing,${oc.env:SECRET}}", "${oc.env:SECRET}"),
        ("${oc.env:NOWHERE,x}", "x"),
        ("${trainer.strategy}", "ddp"),
        ("${trainer.${oc.env:CHOICE}}", "ddp"),
        ("${oc.select:trainer.${oc.env:CHOICE}}", "ddp"),
    ],
)
def test_text_values_are_recorded_as_interpolations(value: str, recorded: str) -> None:
    quoted = value.replace("'", "\\'")
    overrides = ("logger.wandb.entity=${oc.env:SECRET}", f"logger.wandb.project='{quoted}'")
    config = plain(*overrides)
    assert config["logger"]["wandb"]["project"] == recorded  # type: ignore[index]
    assert SECRET not in json.dumps(config)
    assert "attention" in config.pop("choices")  # type: ignore[operator]
    assert with_environment(config) == composed(overrides)


def test_numbers_from_variables_are_recorded_as_numbers() -> None:
    """They are no secrets, and the identity of a run depends on them."""
    config = plain("seed='${oc.decode:${oc.env:NUMBER}}'")
    assert (config["seed"], config["data"]["seed"]) == (7, 7)  # type: ignore[index]


def test_a_variable_that_a_job_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = plain("logger.wandb.entity=${oc.env:SECRET}")
    monkeypatch.delenv("SECRET")
    with pytest.raises(ConfigError, match=r"entity: the environment variable SECRET is not"):
        with_environment(config)


def test_a_path_from_a_variable_is_hashed_and_gives_the_same_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tsv").write_text("".join(f"{i} a\tb {i}\n" for i in range(200)))
    monkeypatch.setenv("DATA", str(tmp_path))
    tiny = ("data=pairs", "trainer=cpu", "logger=csv", "model.d_model=16")
    by_name = resolve(plain(*tiny, "data.train='${oc.env:DATA}/x.tsv'"))
    by_path = resolve(plain(*tiny, f"data.train={tmp_path}/x.tsv"))
    assert by_name.record["data"]["train"] == "${oc.env:DATA}/x.tsv"
    assert identity(by_name.record) == identity(by_path.record)
    assert build(by_name).data.longest()


WANDB = ("logger=wandb", "logger.wandb.mode=disabled")


def test_no_file_of_a_run_holds_the_value(command: Command, tmp_path: Path) -> None:
    more = (
        *WANDB,
        "trainer.max_steps=2",
        "logger.wandb.entity=${oc.env:SECRET}",
        "hydra.run.dir=run",
    )
    answer = command("train", *TINY_DIGITS, *more)
    assert answer.code == 0, answer.err
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert read_config(tmp_path / "run")["logger"]["wandb"]["entity"] == "${oc.env:SECRET}"
    again = command("train", "--from", "run", "hydra.run.dir=again")
    assert again.code == 2
    assert "logger.wandb.entity is '${oc.env:SECRET}', and variables of a recorded" in again.err
    assert command("evaluate", "run").code == 0


def test_files_of_a_sweep_do_not_hold_the_value(command: Command, tmp_path: Path) -> None:
    more = (
        *WANDB,
        "logger.wandb.entity=${oc.env:SECRET}",
        "hydra.sweep.dir=sweep",
        "trainer.max_steps=2",
    )
    answer = command("train", "-m", *TINY_DIGITS, *more, "seed=0,1")
    assert answer.code == 0, answer.err
    files = [path for path in (tmp_path / "sweep").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "override", ["trainer=[cpu,gpu]", "trainer=[gpu,cpu]", "optimizer=[adam,adamw]"]
)
def test_several_options_of_one_group_are_refused(
    override: str, command: Command, tmp_path: Path
) -> None:
    """Hydra would merge them, and the last one would win without a message."""
    for more in ((), ("-m", "seed=0,1")):
        answer = command("train", override, *more)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith(f"attention-lab: {override}: only one option can be chosen")
        assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
