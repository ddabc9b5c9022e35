"""Reading run directories."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attention_lab.reports.comparison import compare
from attention_lab.reports.formatting import format_seed_count, format_status
from attention_lab.reports.runs import NotARun, RecordedRun, read_runs
from attention_lab.tracking.lock import Lock
from attention_lab.tracking.record_files import with_version
from tests.reports.conftest import WriteRun


def run_named(runs: list[RecordedRun], part: str) -> RecordedRun:
    (run,) = [run for run in runs if part in run.name]
    return run


def test_reads_a_sweep(sweep: Path) -> None:
    runs = read_runs([sweep])
    run = run_named(runs, "attention=additive,data=g2p,seed=2")
    assert len(runs) == 10
    assert (run.name, run.directory) == (f"sweep/{run.directory.name}", sweep / run.directory.name)
    assert (run.status, run.error, run.seed) == ("finished", None, 2)
    assert run.overrides == ("attention=additive", "data=g2p", "seed=2")
    assert run.config["data"]["_target_"] == "data.G2P"
    assert run.result is not None
    assert run.result["test"]["per"] == 0.14
    assert run.curve("validation/per") == {100: 0.4, 200: 0.14}
    assert run.curve("train/loss") == {99: 1.5, 199: 1.5}
    assert run.curve("no such column") == {}


def test_reads_single_runs_and_each_run_once(sweep: Path) -> None:
    run = next(sweep.iterdir())
    assert [r.directory for r in read_runs([run])] == [run]
    assert len(read_runs([run, sweep, sweep])) == 10


def test_runs_are_sorted_by_number_then_by_start(write_run: WriteRun) -> None:
    # The longer the overrides, the later the fixture says that the run began.
    write_run("a=long_value", 0)
    write_run("b=value", 1)
    write_run("a=x", 2, name="10")
    sweep = write_run("a=x", 3, name="9").parent
    assert [run.seed for run in read_runs([sweep])] == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "missing is not a directory"),
        ("empty", "empty is neither a run .* nor a sweep"),
        ("empty/file", "file is not a directory"),
    ],
)
def test_a_path_that_is_neither_a_run_nor_a_sweep_is_refused(
    tmp_path: Path, path: str, message: str
) -> None:
    (tmp_path / "empty" / "plots").mkdir(parents=True)
    (tmp_path / "empty" / "file").write_text("")
    with pytest.raises(NotARun, match=message) as error:
        read_runs([tmp_path / path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "status", "reason"),
    [
        ("status.json", '{"status": "finis', "preempted", "status.json is not valid JSON"),
        ("status.json", "[]", "failed", "status.json holds no mapping"),
        ("status.json", '{"schema_version": 1, "status": "failed"}', "failed", "status.json lacks"),
        ("status.json", None, "failed", "status.json is missing"),
        ("result.json", '{"test": {"per"', "preempted", "result.json is not valid JSON"),
        ("result.json", None, "preempted", "result.json is missing"),
        ("config.yaml", "data: [1, 2", "failed", "config.yaml is not valid YAML"),
        ("config.yaml", None, "failed", "config.yaml is missing"),
    ],
)
def test_a_run_with_a_broken_record_has_not_finished(
    sweep: Path, file: str, content: str | None, status: str, reason: str
) -> None:
    broken = sweep / "attention=scaled,data=g2p,seed=1" / file
    broken.unlink()
    if content is not None:
        broken.write_text(content)
    run = run_named(runs := read_runs([sweep]), "scaled,data=g2p,seed=1")
    assert run.status == status
    assert run.error is not None
    assert reason in run.error
    assert run.result is None
    # Neither is it dropped, nor does it change what the other runs are compared by.
    comparison = compare(runs)
    assert run in [unfinished for _, unfinished in comparison.unfinished]
    assert {group.label for group in comparison.groups} == {"additive", "scaled", "general"}


def test_a_metrics_file_ends_with_its_last_whole_line(write_run: WriteRun) -> None:
    run = write_run("a=b", 0, curve={100: 0.5, 200: 0.25})
    file = run / "metrics.csv"
    file.write_text(file.read_text() + "300,0,0.7,0.1")  # of 0.125, say
    (read,) = read_runs([run])
    assert read.status == "finished"
    assert read.curve("validation/per") == {100: 0.5, 200: 0.25}
    file.write_text("step,validation/per")
    assert read.curve("validation/per") == {}


def test_cells_without_a_finite_number_are_left_out(write_run: WriteRun) -> None:
    run = write_run("a=b", 0)
    (run / "metrics.csv").write_text("step,loss,per\n1,nan,inf\n2,?,0.5,7\n3\n?,1,1\n")
    (read,) = read_runs([run])
    assert read.curve("loss") == {}
    assert read.curve("per") == {2: 0.5}


def test_a_running_run_whose_process_is_gone_was_interrupted(
    write_run: WriteRun, dead_pid: int
) -> None:
    write_run("a=dead", 0, status="running", record={"pid": dead_pid})
    elsewhere = write_run("a=elsewhere", 0, status="running")
    (elsewhere / ".lock").write_text('{"pid": 1, "host": "another"}')
    alive = write_run("a=alive", 0, status="running")
    lock, sweep = Lock(alive), alive.parent
    runs = read_runs([sweep])
    assert {run.name: run.status for run in runs} == {
        "sweep/a=dead,seed=0": "preempted",
        "sweep/a=elsewhere,seed=0": "running",
        "sweep/a=alive,seed=0": "running",
    }
    assert f"its process, {dead_pid}, exited unexpectedly" in str(run_named(runs, "dead").error)
    lock.release()
    hour_ago = time.time() - 3600
    os.utime(elsewhere / "status.json", (hour_ago, hour_ago))
    assert {run.status for run in read_runs([sweep])} == {"preempted"}


def test_a_job_without_a_status_file(write_run: WriteRun) -> None:
    run = write_run("a=b", 3)
    for file in ("status.json", "result.json"):
        (run / file).unlink()
    (read,) = read_runs([run.parent])
    assert (read.status, read.error, read.seed) == ("waiting", "has not started", 3)
    (run / "log.txt").write_text("Killed\n")
    (read,) = read_runs([run.parent])
    assert read.status == "failed"
    assert "status.json is missing" in str(read.error)
    assert "see log.txt" in str(read.error)


def write_sweep(sweep: Path, jobs: dict[str, list[str]], **record: object) -> None:
    listed = [{"directory": name, "overrides": asked} for name, asked in jobs.items()]
    times = {"started": "2026-01-02T03:04:05.678+00:00", "ended": None}
    alive = {"pid": os.getpid(), "host": socket.gethostname()}
    content = {"command": "attention-lab train -m", **times, **alive, "jobs": listed, **record}
    (sweep / "sweep.json").write_text(json.dumps(with_version(content)))


def test_the_runs_of_a_sweep_are_its_jobs(write_run: WriteRun) -> None:
    write_run("a=x", 1, name="second")
    sweep = write_run("a=x", 0, name="first").parent
    write_run("a=z", 5, name="stray")
    waiting = write_run("a=y", 0, name="made") / "status.json"
    waiting.unlink()
    (waiting.parent / "result.json").unlink()
    jobs = {"second": ["a=x", "seed=1"], "first": ["a=x", "seed=0"], "made": ["a=y", "seed=0"]}
    write_sweep(sweep, {**jobs, "missing": ["a=y", "seed=7"]})
    runs = read_runs([sweep])
    assert [(run.directory.name, run.seed, run.status) for run in runs] == [
        ("second", 1, "finished"),
        ("first", 0, "finished"),
        ("made", 0, "waiting"),
        ("missing", 7, "waiting"),
    ]
    assert {run.error for run in runs[2:]} == {"the sweep ended before it started"}
    # What has not started counts for its group.
    x, y = compare(runs).groups
    assert (x.label, format_seed_count(x), y.label, format_seed_count(y)) == ("x", "2", "y", "0/2")
    assert [format_status(run) for run in y.runs] == ["not started"] * 2


@pytest.mark.parametrize(
    ("ended", "held", "has_log", "expected", "reason"),
    [
        (None, True, False, "waiting", "has not started"),
        (None, True, True, "waiting", "has not started"),
        ("2026-01-02T04:00:00+00:00", False, False, "waiting", "the sweep ended before it started"),
        ("2026-01-02T04:00:00+00:00", False, True, "failed", "status.json is missing"),
        (None, False, False, "waiting", "the sweep ended before it started"),
        (None, False, True, "failed", "status.json is missing"),
    ],
)
def test_the_status_of_a_job_that_has_not_started_depends_on_its_sweep(
    tmp_path: Path, ended: str | None, held: bool, has_log: bool, expected: str, reason: str
) -> None:
    (tmp_path / "job").mkdir()
    if has_log:
        (tmp_path / "job" / "log.txt").touch()
    write_sweep(tmp_path, {"job": ["a=x", "seed=0"]}, ended=ended)
    lock = Lock(tmp_path)
    if not held:
        lock.release()
    (run,) = read_runs([tmp_path])
    lock.release()
    assert run.status == expected
    assert reason in str(run.error)


@pytest.mark.parametrize("content", ["{", '{"schema_version": 1}'])
def test_an_empty_sweep_record_is_ignored(sweep: Path, content: str) -> None:
    (sweep / "sweep.json").write_text(content)
    assert len(read_runs([sweep])) == 10


def test_reading_records_imports_nothing_heavy() -> None:
    code = "import sys, json, attention_lab.reports.runs; print(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    heavy = {"torch", "lightning", "matplotlib", "rich", "jinja2", "wandb"}
    assert heavy & set(json.loads(output)) == set()
