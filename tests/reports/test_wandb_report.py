"""The report in W&B: tables and files in the group of the sweep, only if requested."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attention_lab.reports.comparison import compare
from attention_lab.reports.report import write_report
from attention_lab.reports.runs import read_runs
from attention_lab.reports.wandb_report import log_report
from attention_lab.tracking.wandb_history import records
from tests.reports.conftest import WriteRun
from tests.tracking.wandb_files import forget_login, when_written


def test_the_report_is_a_run_in_the_group_of_its_sweep(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_login(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    comparison = compare(read_runs([sweep]))
    write_report(comparison, sweep)
    place = Path(log_report(comparison, sweep))
    run = when_written(sweep)
    assert place.is_relative_to(sweep / "wandb")
    assert (run.run.project, run.run.run_group) == ("attention-lab", "sweep")
    assert (run.run.display_name, run.run.job_type) == ("report of sweep", "report")
    assert run.exit_code == 0
    (logged,) = [row for row in run.history if "report/numbers" in row]
    tables = {
        name: json.loads((place / logged[f"report/{name}"]["path"]).read_text())
        for name in ("numbers", "runs")
    }
    with (sweep / "report.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    columns = tables["numbers"]["columns"]
    rows = [dict(zip(columns, row, strict=True)) for row in tables["numbers"]["data"]]
    assert [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ] == expected
    assert ["sweep/attention=general,data=g2p,seed=1", "general", 1, "diverged"] in [
        row[:4] for row in tables["runs"]["data"]
    ]
    (file,) = sweep.glob("wandb/offline-run-*/*.wandb")
    artifacts = [each.artifact for each in records(file) if each.HasField("artifact")]
    (artifact,) = [each for each in artifacts if each.type == "report"]
    entries = {entry.path for entry in artifact.manifest.contents}
    assert entries == {"report.html", "report.csv"}


@pytest.mark.parametrize("name", ["größe", "x" * 200])
def test_an_artifact_has_a_name_that_wandb_accepts(
    name: str, write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_login(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = write_run("a=x", 0, config={"logger": {"wandb": {"group": "ours"}}})
    comparison = compare(read_runs([run]))
    sweep = tmp_path / name
    write_report(comparison, sweep)
    assert log_report(comparison, sweep) is not None
    assert when_written(sweep).run.run_group == "ours"


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        ({"wandb": {"mode": "auto", "project": "mine", "entity": "us"}}, ("auto", "mine", None)),
        ({"wandb": {"mode": "offline", "project": "mine"}}, ("offline", "mine", None)),
        ({"wandb": {"mode": "disabled"}}, ("auto", "attention-lab", None)),
        ({}, ("auto", "attention-lab", None)),
    ],
)
def test_a_report_is_logged_to_the_project_of_its_runs(
    write_run: WriteRun,
    logger: dict[str, Any],
    expected: tuple[str, str, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []

    def options(mode: str, project: str = "attention-lab", entity: str | None = None) -> Any:
        asked.append((mode, project, entity))
        return SimpleNamespace(logger=lambda *_, **__: None)

    monkeypatch.setattr("attention_lab.reports.wandb_report.WandbOptions", options)
    run = write_run("a=x", 0, config={"logger": logger})
    assert log_report(compare(read_runs([run])), run) == "is off"
    assert asked == [expected]
