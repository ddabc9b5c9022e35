"""Sweeps and reports read the same status of a run."""

import json
from pathlib import Path

import pytest

from attention_lab.reports.runs import read_runs
from attention_lab.tracking.record_files import with_version
from attention_lab.tracking.run_directory import RunRecord
from attention_lab.tracking.run_status import read_status
from tests.runs import Stopped, unchecked

RESULT = {"monitor": "loss", "mode": "min", "validation": {"loss": 0.5}}


@pytest.mark.parametrize(
    ("result", "status", "reason"),
    [
        (json.dumps(with_version(RESULT)), "finished", None),
        (None, "preempted", "result.json is missing"),
        ('{"validation": {"los', "preempted", "result.json is not valid JSON, or was cut off"),
        (json.dumps({"schema_version": 99}), "failed", "result.json has schema_version 99"),
    ],
)
def test_a_finished_run_needs_its_result(
    result: str | None, status: str, reason: str | None, tmp_path: Path
) -> None:
    """Without its result, the same command resumes the run."""
    with RunRecord(unchecked({"seed": 0}, tmp_path)) as record:
        record.finish({})
    (tmp_path / "result.json").unlink()
    if result is not None:
        (tmp_path / "result.json").write_text(result)
    known, (run,) = read_status(tmp_path), read_runs([tmp_path])
    assert known.state == run.status == status
    for error in (known.error, run.error):
        assert error is None if reason is None else str(error).startswith(reason)


@pytest.mark.parametrize("status", ["running", "failed", "diverged", "preempted"])
def test_reports_and_sweeps_agree_on_the_status(status: str, tmp_path: Path) -> None:
    record = RunRecord(unchecked({"seed": 0}, tmp_path))
    if status != "running":
        record.end(Stopped(status, "a reason"))
    (run,) = read_runs([tmp_path])
    assert read_status(tmp_path).state == run.status == status
    record.close()
    if status == "running":  # its process is gone
        (run,) = read_runs([tmp_path])
        assert read_status(tmp_path).state == run.status == "preempted"


def test_a_run_without_a_record_is_waiting(tmp_path: Path) -> None:
    assert read_status(tmp_path / "nowhere").state == "waiting"
