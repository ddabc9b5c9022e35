"""``sweep.keep``: checkpoints are deleted that no resumed run and no reader needs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from attention_lab.api.open_run import UnusableRun, open_run
from attention_lab.config.resolve import JobType, RunSpec
from attention_lab.sweeps.kept_checkpoints import KeptCheckpoints
from attention_lab.sweeps.sweep import Sweep
from attention_lab.sweeps.watchers import Watcher
from attention_lab.tracking.lock import Lock
from attention_lab.tracking.run_directory import RunRecord
from attention_lab.tracking.run_status import RunStatus, State, read_status
from tests.conftest import Compose

#: Each run has these files, and one that is not the sweep's to delete.
FILES = {"best.ckpt", "last.ckpt", "previous.ckpt", "mine.ckpt"}


def checkpoints(directory: Path) -> set[str]:
    return {file.name for file in (directory / "checkpoints").iterdir()} - {"mine.ckpt"}


def run(directory: Path) -> Path:
    """A run directory with checkpoints."""
    (directory / "checkpoints").mkdir(parents=True)
    for name in FILES:
        (directory / "checkpoints" / name).touch()
    return directory


def finished(value: float, mode: str = "min") -> RunStatus:
    return RunStatus("finished", value=value, monitor="loss", mode=mode)


@pytest.mark.parametrize(("mode", "best"), [("min", 1), ("max", 2)])
def test_the_best_run_of_each_group_keeps_its_checkpoints(
    mode: str, best: int, tmp_path: Path
) -> None:
    kept = KeptCheckpoints("best", lambda directory: directory.name[0])
    a = [run(tmp_path / f"a{i}") for i in range(4)]
    b = run(tmp_path / "b")
    kept.ended(b, finished(9.0, mode))
    for directory, value in zip(a, (0.5, 0.3, 0.8, float("nan")), strict=True):
        kept.ended(directory, finished(value, mode))
    assert [bool(checkpoints(directory)) for directory in a] == [i == best for i in range(4)]
    assert checkpoints(b)
    assert all((directory / "checkpoints" / "mine.ckpt").exists() for directory in a)


@pytest.mark.parametrize("state", ["waiting", "running", "failed", "diverged", "preempted"])
@pytest.mark.parametrize("keep", ["best", "none"])
def test_a_run_that_may_resume_keeps_its_checkpoints(
    state: State, keep: str, tmp_path: Path
) -> None:
    KeptCheckpoints(keep, lambda _: None).ended(run(tmp_path), RunStatus(state))
    assert len(checkpoints(tmp_path)) == 3


@pytest.mark.parametrize("keep", ["best", "none"])
def test_a_pruned_run_keeps_none(keep: str, tmp_path: Path) -> None:
    KeptCheckpoints(keep, lambda _: "").ended(run(tmp_path), RunStatus("pruned"))
    assert not checkpoints(tmp_path)


def test_checkpoints_outside_of_the_run_stay(tmp_path: Path) -> None:
    other, linked = run(tmp_path / "other"), tmp_path / "linked"
    linked.mkdir()
    (linked / "checkpoints").symlink_to(other / "checkpoints")
    KeptCheckpoints("none", lambda _: "").ended(linked, finished(1.0))
    assert len(checkpoints(other)) == 3


def test_a_locked_run_is_cleared_when_it_is_unlocked(tmp_path: Path) -> None:
    """A logger may upload the checkpoint after the run has finished."""
    (tmp_path / "status.json").write_text('{"schema_version": 1, "status": "pruned"}')
    kept, lock = KeptCheckpoints("none", lambda _: ""), Lock(run(tmp_path))
    kept.ended(tmp_path, finished(1.0))
    kept.refresh()
    assert checkpoints(tmp_path)
    lock.release()
    kept.refresh()
    assert not checkpoints(tmp_path)


def test_a_run_that_is_locked_at_the_end_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "status.json").write_text('{"schema_version": 1, "status": "pruned"}')
    kept, lock = KeptCheckpoints("none", lambda _: ""), Lock(run(tmp_path))
    kept.ended(tmp_path, finished(1.0))
    kept.close()
    says = "1 run still locked, with checkpoints; the same command deletes them\n"
    assert capsys.readouterr().err == says
    lock.release()
    kept.close()
    assert (checkpoints(tmp_path), capsys.readouterr().err) == (set(), "")


#: Makes a sweep whose runs finish at once, with this metric for each.
MakeSweep = Callable[..., Sweep]


@pytest.fixture
def make_sweep(tiny_digits: Compose, tmp_path: Path) -> MakeSweep:
    def make(values: dict[str, float], job_type: JobType = "train", **options: object) -> Sweep:
        def run_jobs(jobs: Sequence[RunSpec], watcher: Watcher) -> None:
            for job in jobs:
                with RunRecord(job) as record:
                    run(job.directory)
                    value = values[",".join(job.overrides)]
                    record.finish({"monitor": "loss", "mode": "min", "validation": {"loss": value}})
                watcher.ended(job.directory, read_status(job.directory))

        def compose(overrides: Sequence[str]) -> dict[str, object]:
            return tiny_digits(*overrides)

        return Sweep(tmp_path, compose, options, run_jobs, lambda _: None, job_type)

    return make


def left(directory: Path) -> list[str]:
    """The names of the runs that have checkpoints, without their hashes."""
    files = directory.glob("*/checkpoints/best.ckpt")
    return sorted(file.parents[1].name.rpartition("-")[0] for file in files)


def test_later_jobs_are_compared_with_those_of_earlier_commands(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    values = {
        f"model.dropout={dropout},seed={seed}": dropout + seed
        for dropout in (0.1, 0.2)
        for seed in (2, 1, 0)
    }
    jobs = [job.split(",") for job in values]
    make_sweep(values).run(jobs[1:3] + jobs[4:], ())
    assert len(left(tmp_path)) == 4  # the default keeps all
    make_sweep(values, keep="best").run(jobs[1:3] + jobs[4:], ())
    best = [f"model.dropout={dropout},seed=0" for dropout in (0.1, 0.2)]
    assert left(tmp_path) == best
    make_sweep(values, keep="best").run(jobs, ())
    assert left(tmp_path) == best
    make_sweep(values, keep="none").run(jobs, ())
    assert left(tmp_path) == []


def test_a_search_keeps_the_best_of_all_its_batches(make_sweep: MakeSweep, tmp_path: Path) -> None:
    values = {f"model.dropout={dropout}": abs(dropout - 0.2) for dropout in (0.1, 0.2, 0.3, 0.4)}
    jobs = [[job] for job in values]
    search = make_sweep(values, "search", keep="best")
    search.run(jobs[:2], ())
    search.run(jobs[2:3], ())
    make_sweep(values, "search", keep="best").run(jobs[3:], ())  # resumed from a database
    assert left(tmp_path) == ["model.dropout=0.2"]


def test_the_runs_of_a_tuning_are_not_kept(make_sweep: MakeSweep, tmp_path: Path) -> None:
    values = {"optimizer.lr=0.01,seed=7": 0.1, "optimizer.lr=0.1,seed=7": 0.2}
    values |= {f"seed={seed},optimizer.lr=0.01": float(seed) for seed in (0, 1)}
    tuning = {"tune": "lr", "grid": [0.01, 0.1], "seeds": [7]}
    make_sweep(values, keep="best", **tuning).run([["seed=0"], ["seed=1"]], ())
    assert left(tmp_path / "tuning") == []
    assert left(tmp_path) == ["seed=0,optimizer.lr=0.01"]


def test_reading_a_run_without_its_checkpoint_says_how_to_get_one(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    (directory,) = make_sweep({"seed=0": 1.0}, keep="none").run([["seed=0"]], ())
    with pytest.raises(UnusableRun) as error, open_run(directory, "best"):
        pass
    assert str(error.value) == (
        f"{directory} has no checkpoint best.ckpt; it was deleted because of sweep.keep=best or "
        f"none; to train the run again: attention-lab train --from {directory}"
    )
