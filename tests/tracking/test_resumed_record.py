"""The record of a run that was cut off, when the run is resumed."""

import json
import re
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from attention_lab.tracking import code_version
from attention_lab.tracking.run_directory import RunRecord
from tests.runs import Stopped, unchecked
from tests.tracking.run_files import CONFIG, read_status


@pytest.mark.parametrize("ending", [None, "failed", "diverged", "preempted"])
def test_a_run_that_has_not_finished_resumes(tmp_path: Path, ending: Any) -> None:
    first = RunRecord(unchecked(CONFIG, tmp_path, ["first"]))
    assert not first.is_resumed
    first.progress(3, 10, {}, "min")
    if ending:
        first.end(Stopped(ending, "an error"))
    first.close()
    before = read_status(tmp_path)
    for times in (1, 2):
        again = RunRecord(
            unchecked(CONFIG | {"logger": {"wandb": "another"}}, tmp_path, ["second"])
        )
        assert again.is_resumed
        after = read_status(tmp_path)
        assert (after["status"], after["error"], after["finished"]) == ("running", None, None)
        for lasting in ("started", "progress", "wandb_id"):
            assert after[lasting] == before[lasting]
        assert after["overrides"] == ["second"]
        assert len(after["resumed"]) == times
        assert before["started"] <= after["resumed"][-1] <= after["updated"]
        again.close()


@pytest.mark.usefixtures("fresh_code_version")
def test_resuming_with_other_code_gives_a_warning(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_version, "_git_revision", lambda: "abc")
    code_version.code_version.cache_clear()
    status = read_status(begun)
    status |= {"git_revision": "abc", "versions": status["versions"] | {"torch": "1.0"}}
    (begun / "status.json").write_text(json.dumps(status))
    message = rf"started with other code \(torch was 1\.0, is {re.escape(version('torch'))}\)"
    with pytest.warns(UserWarning, match=message):
        RunRecord(unchecked(CONFIG, begun)).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RunRecord(unchecked(CONFIG, begun)).close()


def test_partial_files_of_a_killed_process_are_removed(begun: Path) -> None:
    (begun / "checkpoints").mkdir()
    (begun / ".status.json.123.partial").write_text("{")
    (begun / "checkpoints" / ".last.ckpt.123.partial").write_text("half")
    (begun / "notes.partial").write_text("mine")
    RunRecord(unchecked(CONFIG, begun))
    names = {path.name for path in begun.iterdir()}
    assert names == {".lock", "checkpoints", "config.yaml", "status.json", "notes.partial"}
    assert not list((begun / "checkpoints").iterdir())


def test_a_status_lost_in_a_power_failure_is_replaced(begun: Path) -> None:
    (begun / "status.json").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = RunRecord(unchecked(CONFIG, begun))
    assert record.is_resumed
    assert read_status(begun)["status"] == "running"
