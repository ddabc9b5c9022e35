"""Reports of runs from strangers read no other files and evaluate no text."""

import base64
import csv
import json
import os
from pathlib import Path

import pytest
import yaml

from attention_lab.config.identity import identity
from attention_lab.reports import terminal_table
from attention_lab.reports.attention_maps import map_gallery
from attention_lab.reports.comparison import compare
from attention_lab.reports.page import render_page
from attention_lab.reports.report import write_report
from attention_lab.reports.runs import NotARun, read_runs
from attention_lab.tracking.csv_file import cell
from attention_lab.tracking.record_files import with_version
from tests.cli.conftest import Command, command  # noqa: F401
from tests.reports.conftest import WriteRun

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Files outside the runs: one named like an image, one not."""
    (tmp_path / "id_ed25519").write_bytes(SECRET)
    (tmp_path / "private.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + SECRET)
    return tmp_path


@pytest.mark.parametrize("kind", ["file", "private", "step", "attention", "fifo", "text", "huge"])
def test_the_page_embeds_only_images_of_the_run(
    kind: str, write_run: WriteRun, secret: Path
) -> None:
    run = write_run("attention=x", 0, test={"per": 0.5})
    folder = run / "attention" / "step-000001"
    folder.parent.mkdir()
    if kind in ("step", "attention"):
        elsewhere = secret / "elsewhere" / ("step-000001" if kind == "attention" else "")
        elsewhere.mkdir(parents=True)
        (elsewhere / "a-layer.png").write_bytes((secret / "private.png").read_bytes())
        if kind == "attention":
            folder.parent.rmdir()
        (folder if kind == "step" else folder.parent).symlink_to(secret / "elsewhere")
    else:
        folder.mkdir()
        picture = folder / "a-layer.png"
        if kind == "fifo":
            os.mkfifo(picture)
        elif kind == "text":
            picture.write_bytes(SECRET)
        elif kind == "huge":
            with picture.open("wb") as file:
                file.write(b"\x89PNG\r\n\x1a\n" + SECRET)
                file.truncate(1_000_000_000)
        else:
            picture.symlink_to(secret / ("id_ed25519" if kind == "file" else "private.png"))
    page = render_page(compare(read_runs([run])))
    assert "data:image/png" not in page
    assert base64.b64encode(SECRET).decode()[4:20] not in page


def test_images_that_are_too_large_are_left_out(write_run: WriteRun) -> None:
    run = write_run("attention=x", 0, test={"per": 0.5})
    folder = run / "attention" / "step-000001"
    folder.mkdir(parents=True)
    for layer in range(9):
        with (folder / f"a-layer{layer}.png").open("wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            file.truncate(8_000_000)
    found = map_gallery(compare(read_runs([run])))
    assert (found.maps, found.left_out) == ({}, [f"layer{i} on a" for i in range(9)])


def test_very_many_metrics_take_no_longer_than_many(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {f"metric{number}": 0.5 for number in range(300)}
    run = write_run("attention=x", 0, test=metrics, result={"trivial_baseline": metrics})
    tried = []
    table = terminal_table._terminal_table
    monkeypatch.setattr(
        terminal_table, "_terminal_table", lambda *given: tried.append(given) or table(*given)
    )
    terminal_table.terminal_table(compare(read_runs([run])))
    assert len(tried) <= 20


@pytest.mark.parametrize("label", ["=HYPERLINK(1)", "+1+1", "-1-1", "@SUM(A1)", "\t=1", "＝1"])
def test_cells_that_a_spreadsheet_would_evaluate_are_quoted(
    label: str, write_run: WriteRun, tmp_path: Path
) -> None:
    run = write_run(f"attention={label}", 0, test={"per": 0.5}, name="a")
    write_run("attention=b", 0, test={"per": -0.5}, name="b")
    comparison = compare(read_runs([run.parent]))
    write_report(comparison, tmp_path)
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    groups = {row["group"]: row["mean"] for row in rows if row["kind"] == "group"}
    # What Hydra would read as more than a value is named with its key.
    assert groups.keys() <= {f"'{label}", f"attention={label}", "b"}
    assert (len(groups), groups["b"]) == (2, "-0.5")


@pytest.mark.parametrize("value", [-0.5, 3, None, "-0.5", "+1e-3", "a=b", "", "-2"])
def test_numbers_and_other_text_are_unchanged(value: object) -> None:
    assert cell(value) == value


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "result.json", "metrics.csv"])
@pytest.mark.parametrize("kind", ["fifo", "link", "huge", "deep", "newer"])
def test_a_malicious_record_is_a_row_with_the_reason(
    name: str, kind: str, write_run: WriteRun, secret: Path
) -> None:
    run = write_run("attention=x", 0, test={"per": 0.5}, curve={1: 0.5}, name="x")
    write_run("attention=y", 0, test={"per": 0.25}, name="y")
    path = run / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(secret / "id_ed25519")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1_000_000_000)
    elif kind == "deep":
        path.write_text("[" * 300_000)
    else:
        path.write_text('{"schema_version": 2}')
    comparison = compare(read_runs([run.parent]))
    failed = [each for _, each in comparison.unfinished]
    if name == "metrics.csv":  # only the curve is missing
        assert failed == []
        assert comparison.groups[0].runs[0].curve("validation/per") == {}
        return
    assert [each.directory.name for each in failed] == ["x"]
    assert str(failed[0].error).startswith(f"{name} ")
    assert "\n" not in str(failed[0].error)
    assert [group.label for group in comparison.groups if group.finished] == ["y"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"jobs": [{"directory": "..", "overrides": []}]}, "'..', which is not a directory"),
        ({"jobs": 3}, "wrong value for jobs"),
        ({"schema_version": 7, "jobs": []}, "schema_version 7"),
    ],
)
def test_an_unreadable_sweep_record_is_an_error_of_one_line(
    content: dict[str, object],
    reason: str,
    write_run: WriteRun,
    command: Command,  # noqa: F811
) -> None:
    sweep = write_run("attention=x", 0).parent
    (sweep / "sweep.json").write_text(json.dumps(with_version({}) | content))
    with pytest.raises(NotARun, match=reason):
        read_runs([sweep])
    for watch in ([], ["--watch"]):
        answer = command("report", str(sweep), *watch)
        assert answer.code == 1
        assert reason in answer.err
        assert answer.err.count("\n") == 1


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_link_out_of_a_sweep_is_not_followed(
    is_listed: bool, write_run: WriteRun, tmp_path: Path
) -> None:
    run = write_run("attention=x", 0)
    received = tmp_path / "received"
    received.mkdir()
    (received / "a").symlink_to(run)
    if is_listed:
        jobs = [{"directory": "a", "overrides": ["attention=x", "seed=0"]}]
        (received / "sweep.json").write_text(json.dumps(with_version({"jobs": jobs})))
    (read,) = read_runs([received])
    assert read.status == "failed"
    assert "leads out of the sweep" in str(read.error)
    assert read.result is None
    (tmp_path / "latest").symlink_to(run)  # the user's own
    assert read_runs([tmp_path / "latest"])[0].status == "finished"


def test_a_name_with_brackets_or_escapes_is_shown_unchanged(
    write_run: WriteRun,
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    name = "runs [new] \x1b[31m[red]"
    run = write_run("attention=x", 0, name="a")
    write_run("attention=[/y]\x1b[2J", 0, name="b\x1b[2J")
    write_run("attention=z", 1, status="failed", name="c", record={"error": "no [/scratch/x]\x07"})
    run.parent.rename(tmp_path / name)
    answer = command("report", str(tmp_path / name))
    assert (answer.code, answer.err) == (0, "")
    shown = answer.out.replace("\n", "")
    for text in ("runs [new] \\x1b[31m[red]", "[/y]\\x1b[2J", "no [/scratch/x]\\x07"):
        assert text.replace(" ", "") in shown.replace(" ", "")
    assert "\x1b[2J" not in answer.out
    assert "\x07" not in answer.out
    answer = command("report", "a[/red]b\x1b[2J")
    assert answer.err.endswith("a[/red]b\\x1b[2J is not a directory\n")


@pytest.mark.parametrize(("lr", "is_noted"), [(0.1, False), (0.5, True)])
def test_a_config_edited_after_the_run_is_reported(
    lr: float, is_noted: bool, write_run: WriteRun
) -> None:
    run = write_run("attention=x", 0, test={"per": 0.5}, config={"optimizer": {"lr": 0.1}})
    config = yaml.safe_load((run / "config.yaml").read_text())
    status = json.loads((run / "status.json").read_text())
    ran = {key: value for key, value in config.items() if key != "schema_version"}
    (run / "status.json").write_text(json.dumps(status | {"identity": identity(ran)}))
    config["optimizer"]["lr"] = lr
    config["logger"] = {"wandb": {"mode": "disabled"}}  # which changes no result
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    warnings = compare(read_runs([run])).caveats
    assert any("edited after" in line and run.name in line for line in warnings) == is_noted


def test_metrics_beyond_single_precision_are_ignored(write_run: WriteRun) -> None:
    for seed, value in enumerate((1e200, 2e200, 3e200)):
        run = write_run("attention=x", seed, test={"per": value, "wer": 0.5}, curve={1: 1e308})
    (group,) = compare(read_runs([run.parent])).groups
    assert group.interval("per") is None
    assert group.interval("wer") is not None
    assert "wer" in write_report(compare(read_runs([run.parent])), run.parent).read_text().lower()
