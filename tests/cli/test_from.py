"""`attention-lab train --from RUN`: repeat a recorded run, which may come from a stranger."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from attention_lab.cli.recorded_config import recorded_config
from attention_lab.tracking.run_directory import read_config, write_config
from tests.cli.conftest import Command, after_checking
from tests.conftest import Compose


@pytest.fixture
def run(tiny_digits: Compose, tmp_path: Path) -> Path:
    """A run's directory with its config."""
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", tiny_digits("attention=additive", "seed=3", "logger=wandb"))
    return tmp_path / "run"


def composed(command: Command, *overrides: str, run: str = "run") -> dict[str, Any]:
    """What `train --from run OVERRIDES…` composes."""
    answer = command("train", "--from", run, *overrides, "--cfg", "job", "--resolve")
    assert answer.code == 0, answer.err
    config: dict[str, Any] = yaml.safe_load(answer.out)
    del config["sweep"]
    return config


def rewrite(run: Path, old: str, new: str) -> None:
    """Change the text of a run's config."""
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new, 1))


def test_from_uses_the_recorded_config(command: Command, run: Path) -> None:
    assert composed(command) == read_config(run)


@pytest.mark.parametrize("path", ["{}", "./run/", "../{0.parent.name}/run"])
def test_a_run_is_found_by_any_path(path: str, command: Command, run: Path) -> None:
    assert composed(command, run=path.format(run)) == read_config(run)


def test_overrides_change_every_copy_of_a_shared_value(command: Command, run: Path) -> None:
    config = composed(command, "seed=5", "attention.num_heads=4", "optimizer.lr=0.5")
    assert (config["seed"], config["data"]["seed"]) == (5, 5)
    assert config["attention"]["num_heads"] == config["model"]["self_attention"]["num_heads"] == 4
    assert config["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize(
    "choice",
    ["attention=linear", "attention/normalizer=sparsemax", "optimizer=adamw", "trainer=gpu"],
)
def test_another_option_of_a_group_replaces_the_recorded_one(
    choice: str, command: Command, run: Path, compose: Compose
) -> None:
    config, recorded = composed(command, choice), read_config(run)
    group = choice.partition("=")[0]
    section, *inner = group.split("/")
    shipped = compose(choice) if group == "attention" else compose("attention=additive", choice)
    for each in (config, shipped):
        for name in inner:
            each[section] = each[section][name]
    assert config[section] == shipped[section]
    if section == "attention":
        chosen = config["model"]["self_attention"]
        assert (chosen[inner[0]] if inner else chosen) == config["attention"]
    others = set(recorded) - {section, "model", "attention"}
    assert {key: config[key] for key in others} == {key: recorded[key] for key in others}


def test_a_sweep_can_start_from_a_recorded_run(command: Command, run: Path) -> None:
    arguments = ("-m", "--from=run", "seed=1,2", "attention=additive,none")
    answer = command("train", *arguments, "--dry-run")
    assert answer.code == 0, answer.err
    assert "4: 4 new" in answer.out
    elsewhere = run.with_name("other")
    shutil.copytree(run, elsewhere)
    rewrite(elsewhere, "seed: 3", "seed: 4")
    directories = {
        command("train", "--dry-run", "-m", "--from", name, "attention=additive,none").out
        for name in ("run", "other")
    }
    assert len(directories) == 2


REFUSED = {
    "data=text": "data=text: cannot be combined with --from",
    "--config-name=config": "--from run: sets the config; leave --config-name out",
    "optimizer.lrr=1": "optimizer.lrr: there is no such key; did you mean optimizer.lr?",
    "data.limit=3": "data.limit: there is no such key; available: data.",
}


@pytest.mark.parametrize("more", REFUSED)
def test_overrides_that_cannot_be_combined_with_from_are_refused(
    more: str, command: Command, run: Path
) -> None:
    answer = command("train", "--from", "run", more)
    assert (answer.code, after_checking(answer.out)) == (2, "")
    assert answer.err.startswith(f"attention-lab: {REFUSED[more]}")
    assert list(run.parent.iterdir()) == [run]


@pytest.mark.parametrize("verb", ["train", "train --dry-run", "train -m seed=1,2"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nseed:", "\nhydra: {callbacks: {x: {_target_: evil.X}}}\nseed:", "hydra"),
        (
            "seed:",
            "hydra: {job: {env_set: {WANDB_BASE_URL: 'http://127.0.0.1:9'}}}\nseed:",
            "hydra",
        ),
        ("\nseed:", "\nhydra: null\nseed:", "hydra"),
        (
            "project: null",
            "project: ${oc.env:SECRET}",
            "logger.wandb.project is '${oc",
        ),
        (
            "entity: null",
            "entity: 'x${oc.env:SECRET}'",
            "logger.wandb.entity is 'x${oc.env:",
        ),
        ("entity: null", "entity: ${hydra:runtime.cwd}", "logger.wandb.entity is '${hydra:"),
        ("warmup_steps: 0", "warmup_steps: '${oc.env:SECRET}'", "scheduler.warmup_steps is "),
        ("  seed: 3", "  seed: ${oc.decode:${oc.env:SECRET}}", "data.seed is '${oc.decode:"),
        ("  seed: 3", "  seed: 3\n  x.y: ${oc.env:SECRET}", "data.x.y is '${oc.env:SECRET}'"),
        ("_target_: attention_lab.a", "_target_: evil.a", "cannot import evil.attention"),
        ("_target_: attention_lab.a", "_target_: os.a", "cannot import os."),
        ("\nseed:", "\nsweep: {tune: lr}\nseed:", "sweep"),
        ("\nseed:", "\nextra: {_target_: evil.X}\nseed:", "extra: there is no such section"),
    ],
)
def test_a_recorded_config_cannot_control_hydra(
    old: str,
    new: str,
    message: str,
    verb: str,
    command: Command,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "7")
    mark = run.parent.parent / f"{run.parent.name} was imported"
    (run / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass X: pass\n")
    monkeypatch.setenv("PYTHONPATH", "run")
    monkeypatch.syspath_prepend(str(run))
    rewrite(run, old, new)
    answer = command(*verb.split(), "--from", "run")
    assert (answer.code, after_checking(answer.out)) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert not mark.exists()
    assert list(run.parent.iterdir()) == [run]


def test_an_override_replaces_a_variable_of_a_recorded_config(command: Command, run: Path) -> None:
    rewrite(run, "project: null", "project: ${oc.env:SECRET}")
    assert composed(command, "logger.wandb.project=mine")["logger"]["wandb"]["project"] == "mine"
    rewrite(run, "\nseed: 3", "\nseed: ${oc.decode:${oc.env:SECRET}}")
    arguments = ("-m", "--from=run", "logger.wandb.project=mine", "seed=1,2", "--dry-run")
    answer = command("train", *arguments)
    assert answer.code == 0, answer.err
    assert "2: 2 new" in answer.out


def test_no_variable_is_read_if_an_override_replaces_it(tmp_path: Path) -> None:
    write_config(tmp_path, {"seed": 0, "data": {"a": {"b": 1}, "a.b": "${oc.env:SECRET}"}})
    assert "SECRET" not in str(recorded_config(tmp_path, ["data.a.b=2"]))


def test_a_repeated_run_starts_from_the_recorded_or_from_other_weights(
    command: Command, run: Path
) -> None:
    """What it records stays, as it has no key `model.init_from`; an override replaces it."""
    recorded = {"checkpoint": "/old/best.ckpt", "sha256": "0" * 64}
    write_config(run, {**read_config(run), "init_from": recorded})
    assert composed(command)["init_from"] == recorded
    for more in (["model.init_from=nowhere"], ["-m", "model.init_from=nowhere,null"]):
        answer = command("train", "--from", "run", *more)
        assert answer.code == 2
        assert answer.err.endswith(
            "model.init_from: no checkpoint nowhere: No such file or directory\n"
        )
    assert list(run.parent.iterdir()) == [run]


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_from_refuses_a_directory_without_a_run(
    name: str, command: Command, tmp_path: Path
) -> None:
    answer = command("train", "--from", name)
    assert answer.code == 2
    assert answer.err.startswith("attention-lab: --from")
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_run_keeps_the_names_of_its_options(run: Path) -> None:
    config = read_config(run)
    config["choices"] = {"attention": "additive", "attention.score": "additive", "data": "digits"}
    write_config(run, config)
    assert recorded_config(run, [])["choices"] == config["choices"]
    replaced = recorded_config(run, ["attention=local", "data.read=columns"])
    assert replaced["choices"] == {"data": "digits"}
    assert recorded_config(run, ["attention/score=general"])["choices"] == {
        "attention": "additive",
        "data": "digits",
    }
