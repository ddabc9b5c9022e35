"""The display of running jobs."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from attention_lab.sweeps import display
from attention_lab.sweeps.display import Lines, Pace, outcome, table
from attention_lab.tracking.run_status import RunStatus


def running(step: int, steps: int = 100) -> RunStatus:
    progress = {"step": step, "steps": steps, "metrics": {"validation/per": 0.25}}
    return RunStatus("running", progress=progress)


def shown(found: dict[Path, RunStatus], pace: Pace, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(found, pace))
    return console.export_text()


def test_the_time_left_follows_from_the_measured_speed() -> None:
    pace, a, b, c = Pace(), Path("a"), Path("b"), Path("c")
    waiting = {c: RunStatus("waiting")}
    pace.update({a: running(10), b: running(0)} | waiting, now=100.0)
    assert pace.left(a) is None  # a single refresh shows no speed
    assert pace.left_in_total({a: running(10), b: running(0)} | waiting) is None
    found = {a: running(30), b: running(10)} | waiting
    pace.update(found, now=110.0)
    assert pace.left(a) == pytest.approx(35)  # 20 steps in 10 s, 70 to go
    assert pace.left(b) == pytest.approx(90)
    # 125 s of work left in these two, and 75 s (the mean of 50 s and 100 s) in the third.
    assert pace.left_in_total(found) == pytest.approx((35 + 90 + 75) / 2)


def test_the_speed_of_a_resumed_job_is_measured_since_it_resumed() -> None:
    pace, a = Pace(), Path("a")
    pace.update({a: running(10)}, now=0.0)
    pace.update({a: RunStatus("preempted")}, now=50.0)
    pace.update({a: running(50)}, now=1000.0)
    pace.update({a: running(60)}, now=1010.0)
    assert pace.left(a) == pytest.approx(40)


def test_running_jobs_have_a_row_and_all_are_counted() -> None:
    found = {Path("x/one"): running(40), Path("x/two"): RunStatus("running")}
    found |= {Path(f"x/{i}"): RunStatus("finished") for i in range(3)}
    found |= {Path("x/w"): RunStatus("waiting"), Path("x/d"): RunStatus("diverged")}
    text = shown(found, Pace())
    assert "one" in text
    assert "40/100" in text
    assert "per 25.00 %" in text
    assert "starting" in text
    assert "7 runs: 1 waiting, 2 running, 3 finished, 1 diverged" in text


def test_a_narrow_terminal_shows_in_full_what_differs_between_jobs() -> None:
    names = [f"data=g2p,attention=scaled_dot_product,seed={seed}-1a2b" for seed in range(2)]
    names.append("data=g2p,attention=additive,seed=0-1a2b")
    found = {Path(name): running(1234, 50000) for name in names}
    lines = shown(found, Pace(), width=60).splitlines()
    starts = "".join(line[: line.index("1234") - 12] if "1234" in line else line for line in lines)
    assert "attention=scaled_dot_product, seed=1" in " ".join(starts.split())
    assert "data=g2p" not in starts
    assert sum("1234/50000 per 25.00 %" in line for line in lines) == 3


def test_only_twenty_running_jobs_are_shown() -> None:
    text = shown({Path(f"job{i}"): running(1) for i in range(50)}, Pace())
    assert text.count("job") == 20
    assert "30 of those running not shown" in text


def test_pipes_get_a_line_after_half_a_minute_without_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(display.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(display.StatusCache, "read", lambda self, path: running(40))
    lines = Lines([Path("s/a-1"), Path("s/b-2")])
    for clock.now in (10.0, 29.0, 31.0, 50.0):
        lines.refresh()
    assert capsys.readouterr().out.splitlines() == ["2 runs: 2 running"]
    lines.ended(Path("s/b-2"), RunStatus("finished", value=0.5, monitor="per"))
    capsys.readouterr()
    for clock.now in (62.0, 79.0, 81.0):
        lines.refresh()
    assert capsys.readouterr().out.splitlines() == ["2 runs: 2 running"]


def test_a_job_that_ends_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines([Path("s/a-1"), Path("s/b-2")])
    lines.ended(Path("s/a-1"), RunStatus("finished", value=0.5, monitor="per"))
    lines.ended(Path("s/b-2"), RunStatus("failed", "it is broken"))
    assert capsys.readouterr().out.splitlines() == [
        "[1/2] a-1  finished   validation/per 50.00 %",
        "[2/2] b-2  failed: it is broken",
    ]
    assert outcome(RunStatus("preempted")) == "preempted"


def test_debug_runs_are_marked() -> None:
    record = {"debug": ["trainer.limit_train_batches=1"]}
    debug = RunStatus("finished", record=record, value=0.5, monitor="per")
    assert outcome(debug) == "finished   validation/per 50.00 %  (debug run)"
    found = {Path("x/one"): RunStatus("running", record=record), Path("x/two"): running(40)}
    rows = shown(found, Pace()).splitlines()[:2]
    assert ["(debug run)" in row for row in rows] == [True, False]
