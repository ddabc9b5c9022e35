"""Hydra's own flags and settings, and the settings of a machine."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Command, fresh
from tests.sweeps.test_grid import TINY


@pytest.mark.parametrize(
    ("flags", "keys"),
    [
        (("--cfg", "job"), {"attention", "seed", "sweep", "trainer"}),
        (("--cfg", "hydra"), {"hydra"}),
        (("--cfg", "all"), {"attention", "hydra", "seed"}),
        (("--cfg", "job", "--package", "optimizer"), {"lr"}),
        (("--cfg", "job", "--resolve"), {"attention"}),
    ],
)
def test_cfg_shows_the_config(
    flags: tuple[str, ...], keys: set[str], command: Command, tmp_path: Path
) -> None:
    answer = command("train", "optimizer.lr=0.25", *flags)
    assert (answer.code, answer.err) == (0, "")
    assert keys <= yaml.safe_load(answer.out).keys()
    assert ("lr: 0.25" in answer.out) == (flags[1] != "hydra")
    assert ("${" in answer.out) == ("--resolve" not in flags and "--package" not in flags)
    assert list(tmp_path.iterdir()) == []


def test_info_shows_what_the_config_consists_of(tmp_path: Path) -> None:
    answer = fresh("-m", "attention_lab", "train", "attention=additive", "--info", cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    for shown in ("attention/score/additive ", "attention: additive", "GridSweeper", "Search path"):
        assert shown in answer.out
    assert list(tmp_path.iterdir()) == []


def test_hydras_log_and_directory_are_written_on_request(command: Command, tmp_path: Path) -> None:
    asked = ("hydra/job_logging=default", "hydra.output_subdir=.hydra", "hydra.run.dir=run")
    assert command("train", *TINY, *asked).code == 0
    assert (tmp_path / "run" / "train.log").is_file()
    assert (tmp_path / "run" / ".hydra" / "overrides.yaml").is_file()


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A config directory with the settings of a machine; the flag that names it."""
    (tmp_path / "mine" / "local").mkdir(parents=True)
    (tmp_path / "mine" / "local" / "default.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /trainer: ddp\n"
        "seed: 7\n"
        "logger:\n"
        "  wandb:\n"
        "    entity: ${oc.env:A_TEAM}\n"
        "    project: ${oc.env:NO_PROJECT,ours}\n"
    )
    monkeypatch.setenv("A_TEAM", "us")
    return "--config-dir", "mine"


def config(command: Command, *arguments: str) -> dict[str, Any]:
    answer = command("train", *arguments, "--cfg", "job", "--resolve")
    assert (answer.code, answer.err) == (0, "")
    found: dict[str, Any] = yaml.safe_load(answer.out)
    return found


def test_settings_of_a_machine_are_between_experiments_and_the_command_line(
    command: Command, local: tuple[str, str]
) -> None:
    chosen = config(command, *local, "experiment=demo")
    assert chosen["trainer"]["accelerator"] == "gpu"  # the experiment has the CPU
    assert chosen["seed"] == 7
    assert (chosen["logger"]["wandb"]["entity"], chosen["logger"]["wandb"]["project"]) == (
        "us",
        "ours",
    )
    chosen = config(command, *local, "trainer=cpu", "logger.wandb.entity=me", "seed=1")
    assert chosen["seed"] == 1
    assert (chosen["trainer"]["accelerator"], chosen["logger"]["wandb"]["entity"]) == ("cpu", "me")
    for without in (("~local", *local), ()):
        assert config(command, *without)["logger"]["wandb"]["entity"] is None


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
def test_an_unknown_option_of_local_is_refused(
    command: Command, local: tuple[str, str], sweep: tuple[str, ...], tmp_path: Path
) -> None:
    answer = command("train", *local, *TINY, "local=defualt", "hydra.run.dir=run", *sweep)
    message = "local=defualt: there is no such option; did you mean default?"
    assert (answer.code, answer.err) == (2, f"attention-lab: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_environment_names_the_directory(
    command: Command, local: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTENTION_LAB_CONFIG_DIR", str(tmp_path / "mine"))
    assert config(command)["logger"]["wandb"]["entity"] == "us"
    (tmp_path / "other").mkdir()
    assert config(command, "--config-dir", "other")["logger"]["wandb"]["entity"] is None
    (tmp_path / "mine" / "data").mkdir()
    (tmp_path / "mine" / "data" / "ours.yaml").write_text("# Ours\n_target_: ours.Data\n")
    assert "ours" in command("list", "data").out
    monkeypatch.setenv("ATTENTION_LAB_CONFIG_DIR", "nowhere")
    message = "ATTENTION_LAB_CONFIG_DIR=nowhere: no such directory"
    for arguments in (["train", "--cfg", "job"], ["list"]):
        assert command(*arguments) == (2, "", f"attention-lab: {message}\n")


def test_a_home_directory_is_expanded(
    command: Command, local: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config(command, "--config-dir=~/mine")["logger"]["wandb"]["entity"] == "us"
    monkeypatch.setenv("ATTENTION_LAB_CONFIG_DIR", "~/mine")
    assert config(command)["logger"]["wandb"]["entity"] == "us"
    assert command("list").code == 0


@pytest.mark.parametrize("name", ["train.yaml", "optimizer/adamw.yaml"])
def test_a_file_that_would_not_be_used_is_refused(
    command: Command, local: tuple[str, str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "mine" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "mine" / name).write_text("seed: 5\n")
    answer = command("train", *local, "--cfg", "job")
    message = f"mine/{name}: has the name of a shipped file; rename it"
    assert (answer.code, answer.err) == (2, f"attention-lab: {message}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3", "hydra and its sections must be mappings, got 3"),
        ("{job: 3}", "hydra and its sections must be mappings, got 3"),
        ("{job: {chdir: [1]}}", "hydra.job.chdir: value '[1]' is not a valid bool"),
    ],
)
def test_a_wrong_hydra_section_of_an_option_is_named(
    command: Command, local: tuple[str, str], tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "mine" / "experiment").mkdir()
    file = tmp_path / "mine" / "experiment" / "odd.yaml"
    file.write_text(f"# @package _global_\nhydra: {content}\n")
    answer = command("train", *local, "experiment=odd", "--cfg", "job")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"attention-lab: experiment/odd: {message}")


def test_a_missing_variable_is_named(
    command: Command, local: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("A_TEAM")
    answer = command("train", *local, *TINY, "hydra.run.dir=run")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "A_TEAM" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
