"""`attention-lab report`: its options, and errors of one line."""

import json
import shutil
from pathlib import Path

import pytest

from attention_lab.tracking.record_files import with_version
from tests.cli.conftest import Command


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    """A sweep of two groups that PER and WER rank in opposite order."""
    for label, per, wer in (("x", 0.1, 0.6), ("y", 0.2, 0.5)):
        run = tmp_path / "sweep" / label
        run.mkdir(parents=True)
        status = {"status": "finished", "seed": 0, "overrides": [f"attention={label}", "seed=0"]}
        result = {"monitor": "per", "mode": "min", "test": {"per": per, "wer": wer}}
        (run / "status.json").write_text(json.dumps(with_version(status)))
        (run / "result.json").write_text(json.dumps(with_version(result)))
        (run / "config.yaml").write_text("schema_version: 1\nseed: 0")
    return tmp_path / "sweep"


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        ([], "One seed does not distinguish the groups: PER is from 10.0 % for x to 20.0 % for"),
        (["--metric", "wer"], "One seed does not distinguish the groups: WER is from 50.0 % for y"),
        (["--metric", "test/wer", "--baseline", "attention=x"], "One seed does not distinguish"),
    ],
)
def test_the_metric_to_compare_by(
    command: Command, two_runs: Path, arguments: list[str], beginning: str
) -> None:
    answer = command("report", str(two_runs), *arguments)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(beginning)
    assert (two_runs / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "f1"], "available: test/per, test/wer"),
        (["--metric", "validation/per"], "--metric test/per"),
        (["--baseline", "attention=z"], "matches no group; groups: x; y"),
    ],
)
def test_missing_sweeps_and_metrics_are_errors_of_one_line(
    command: Command, two_runs: Path, arguments: list[str], message: str
) -> None:
    answer = command("report", str(two_runs), *arguments)
    assert answer.code == 2
    assert answer.err.startswith("attention-lab: ")
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert not (two_runs / "report.html").exists()


def test_an_unreachable_server_leaves_the_report_on_disk(
    command: Command, two_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such project")

    monkeypatch.setattr("wandb.init", refuse)
    answer = command("report", str(two_runs), "--wandb")
    assert answer.code == 1
    assert answer.err == "attention-lab: W&B: no such project; nothing more is logged.\n"
    assert (two_runs / "report.html").is_file()


def test_wandb_off_is_reported(
    command: Command, two_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    answer = command("report", str(two_runs), "--wandb")
    assert answer.code == 0
    assert answer.out.splitlines()[-1].split() == ["W&B", "is", "off"]


@pytest.mark.parametrize("count", [2, 12])
def test_a_report_of_several_sweeps_keeps_the_report_of_each(
    command: Command, two_runs: Path, count: int
) -> None:
    sweeps = [two_runs, *(two_runs.with_name(f"another-{i}") for i in range(1, count))]
    for sweep in sweeps[1:]:
        shutil.copytree(two_runs, sweep)
    assert command("report", str(two_runs)).code == 0
    before = {path: path.read_bytes() for path in two_runs.glob("report.*")}
    assert len(before) == 2
    answer = command("report", *map(str, sweeps))
    assert answer.code == 0
    (place,) = [line.split()[1] for line in answer.out.splitlines() if line.startswith("report ")]
    assert Path(place).is_file()
    assert Path(place).parent.parent == two_runs.parent
    if count == 2:
        assert Path(place).parent.name == "sweep+another-1"
    assert {path: path.read_bytes() for path in two_runs.glob("report.*")} == before


def test_a_sweep_given_twice_is_read_once(command: Command, two_runs: Path) -> None:
    answer = command("report", str(two_runs), f"{two_runs}/.")
    assert answer.code == 0
    assert (two_runs / "report.html").is_file()


@pytest.mark.parametrize("arguments", ["report . --output", "report", "evaluate", "sync"])
def test_an_empty_path_is_refused(arguments: str, command: Command) -> None:
    answer = command(*arguments.split(), "")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.endswith(": needs the path of a directory\n")


@pytest.mark.parametrize("output", ["y/status.json", "y/status.json/x"])
def test_an_output_that_is_a_file_is_refused(output: str, command: Command, two_runs: Path) -> None:
    answer = command("report", str(two_runs), "--output", str(two_runs / output))
    assert (answer.code, answer.out) == (1, "")
    problem = f"{two_runs / output} cannot be written: not a directory; use --output DIR"
    assert answer.err.lower() == f"attention-lab: {problem}\n".lower()


def test_debug_runs_are_left_out(command: Command, two_runs: Path) -> None:
    config = two_runs / "y" / "config.yaml"
    config.write_text("schema_version: 1\nseed: 0\ntrainer: {limit_val_batches: 2}")
    answer = command("report", str(two_runs))
    assert answer.code == 0
    assert answer.out.startswith("1 debug run left out: sweep/y has trainer.limit_val_batches=2\n")
    answer = command("report", str(two_runs / "y"))
    assert answer.code == 2
    message = "only debug runs, which leave out batches: sweep/y has trainer.limit_val_batches=2"
    assert message in answer.err
