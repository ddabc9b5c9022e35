"""The W&B workspace and report of a sweep, as the specification that is written without login."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.cli import dashboard as command
from attention_lab.reports.charts.styles import PALETTE
from attention_lab.reports.comparison import compare
from attention_lab.reports.runs import read_runs
from attention_lab.reports.wandb_dashboard import Dashboard
from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.viewer import encode_map
from tests.conftest import Compose
from tests.reports.conftest import WriteRun
from tests.runs import train
from tests.tracking.wandb_files import forget_login, stored, when_written

pytest.importorskip("wandb_workspaces", reason="an extra")


@pytest.fixture(scope="module")
def sweep(tiny_digits: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two mechanisms that are trained and logged offline, and the dashboard of their sweep."""
    sweep = tmp_path_factory.mktemp("outputs") / "my-sweep"
    with pytest.MonkeyPatch.context() as patch:
        forget_login(patch, sweep.parent)
        for attention in ("scaled_dot_product", "additive"):
            override = f"attention={attention}"
            config = tiny_digits("logger=wandb", override) | {"choices": {"attention": attention}}
            train(config, sweep / override, [override])
        assert command.run([str(sweep)]) == 0
    return sweep


@pytest.fixture(scope="module")
def written(sweep: Path) -> dict[str, Any]:
    specification: dict[str, Any] = json.loads((sweep / "dashboard.json").read_text("utf-8"))
    return specification


def panels(node: Any) -> Iterator[dict[str, Any]]:
    """The panels anywhere in a specification."""
    if isinstance(node, dict):
        if "viewType" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from panels(inner)


def metrics(panel: dict[str, Any]) -> set[str]:
    """The keys that a panel shows."""
    config = panel["config"]
    assert config.get("xAxis", "trainer/global_step") == "trainer/global_step"
    return {*config.get("metrics", []), *config.get("mediaKeys", [])}


@pytest.mark.parametrize("part", ["workspace", "report"])
def test_every_panel_shows_what_the_runs_log(
    part: str, written: dict[str, Any], sweep: Path
) -> None:
    logged: set[str] = set()
    for directory in sweep.glob("attention=*"):
        logged |= set().union(*when_written(directory).history)
    found = list(panels(written[part]))
    shown = set().union(*map(metrics, found))
    assert all(map(metrics, found))
    assert shown <= logged
    assert shown >= {
        "validation/accuracy",
        "test/accuracy",
        "train/loss",
        "attention/viewer",
        "attention/self_attention/3",
        "attention/self_attention/entropy",
        "validation/predictions",
    }


def test_runs_are_grouped_and_coloured_as_in_the_report(
    written: dict[str, Any], sweep: Path
) -> None:
    section = written["workspace"]["spec"]["section"]
    (runs,) = section["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "attention.value"}]
    (condition,) = runs["filters"]["filters"]
    assert (condition["key"]["name"], condition["value"]) == ("group", ["my-sweep"])
    colours = section["customRunColors"]
    groups = compare(read_runs([sweep])).groups
    for colour, name in zip(PALETTE, [group.label for group in groups], strict=False):
        status = json.loads((sweep / f"attention={name}" / "status.json").read_text())
        assert colours[status["wandb_id"]] == colour
        assert [it for key, it in colours.items() if f"%22{name}%22" in key] == [colour]
        assert stored(sweep / f"attention={name}").config["attention"] == name
    (first, *_) = [it for it in written["report"]["spec"]["blocks"] if it["type"] == "panel-grid"]
    in_report = first["metadata"]["customRunColors"]
    assert sorted(in_report.values()) == sorted([*PALETTE[:2], *PALETTE[:2]])


def test_the_report_begins_with_the_headline(written: dict[str, Any]) -> None:
    texts = [it["children"][0]["text"] for it in written["report"]["spec"]["blocks"]]
    assert "distinguish" in " ".join(texts[:2])


@pytest.fixture
def run(write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, and a user who is not logged in."""
    forget_login(monkeypatch, tmp_path)
    return write_run("attention=additive", 0)


def test_without_login_one_line_says_what_to_do(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run([str(run)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("not logged in to http")
    assert f"wrote the specification to {run}/dashboard.json" in line
    assert line.endswith(f"log in and run: attention-lab dashboard {run}")


@pytest.mark.filterwarnings("error:Passing a plain list")
@pytest.mark.parametrize("name", ["it's", '"', "a\\b", "שלום"])
def test_runs_are_selected_by_any_name_of_a_sweep(name: str, run: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweeps" / name
    sweep.mkdir(parents=True)
    run.rename(sweep / run.name)
    assert command.run([str(sweep)]) == 0
    (runs,) = json.loads((sweep / "dashboard.json").read_text())["workspace"]["spec"]["section"][
        "runSets"
    ]
    (condition,) = runs["filters"]["filters"]
    assert condition["value"] == [name]


@pytest.mark.parametrize("content", ["{", "[1]", '[{"layer": []}]'])
def test_maps_that_cannot_be_read_are_left_out(content: str, run: Path) -> None:
    folder = run / "attention" / "step-000001"
    folder.mkdir(parents=True)
    (folder / "maps.json").write_text(content)
    assert command.run([str(run)]) == 0
    assert "attention/viewer" not in (run / "dashboard.json").read_text()


def test_images_are_those_of_the_last_step(run: Path) -> None:
    names = ["a"]
    for step, layer in ((999_999, "early"), (1_000_000, "late")):
        each = AttentionMap(step, "e", layer, names, names, torch.ones(1, 1, 1))
        folder = run / "attention" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "maps.json").write_text(json.dumps([encode_map(each)]))
    assert command.run([str(run)]) == 0
    text = (run / "dashboard.json").read_text()
    assert ("attention/late/1" in text, "attention/early/1" in text) == (True, False)


def test_with_login_both_are_created(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_ENTITY", "us")
    monkeypatch.setattr("attention_lab.tracking.wandb_logger.server_problem", lambda _: None)
    saved: list[Dashboard] = []
    monkeypatch.setattr(Dashboard, "save", lambda made: saved.append(made) or ["https://w", "r"])
    assert command.run([str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == ["https://w", "r"]
    assert saved[0].workspace.name == "attention additive,seed 0"  # "=" is a symbol
    assert (saved[0].workspace.entity, saved[0].report.entity) == ("us", "us")
    assert not (run / "dashboard.json").exists()
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_a_server_that_fails_leaves_the_specification(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(
        "attention_lab.tracking.wandb_logger.server_problem", lambda _: "it is down"
    )
    assert command.run([str(run)]) == 0
    assert capsys.readouterr().out.startswith("it is down: wrote the specification to ")
    assert (run / "dashboard.json").exists()


def test_without_the_package_one_line_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert command.run([str(run)]) == 2
    assert "pip install 'attention-lab[dashboard]'" in capsys.readouterr().err


def test_what_is_no_sweep_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run([str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
