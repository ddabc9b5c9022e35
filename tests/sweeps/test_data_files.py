"""Edited data files: runs before and after the edit are different runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attention_lab.config.components import ConfigError
from attention_lab.sweeps.sweep import Sweep
from attention_lab.tracking.run_directory import RunExists, RunRecord, read_config, will_resume
from attention_lab.training.evaluation import restored
from tests.conftest import Compose
from tests.runs import spec, train

LINES = "".join(f"{a}{b}{c}\t{b}\n" for a in "abcdef" for b in "xy" for c in "stuvw")
EDITED = LINES.replace("axs\tx", "axs\ty")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lines.tsv"
    path.write_text(LINES)
    return path


@pytest.fixture
def config(compose: Compose, file: Path) -> dict[str, Any]:
    small = ("model.d_model=16", "trainer=cpu", "trainer.max_steps=1", "logger=csv")
    return compose("data=labels", f"data.train={file}", *small)


def test_an_unfinished_run_is_not_resumed_on_other_data(
    config: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    RunRecord(spec(config, run)).close()
    assert will_resume(spec(config, run))
    file.write_text(EDITED)
    with pytest.raises(RunExists, match=r"another run \(the content of data.train has changed\)"):
        train(config, run, [])
    assert not (run / "checkpoints").exists()
    file.write_text(LINES)
    moved = file.rename(tmp_path / "moved.tsv")
    elsewhere = config | {"data": {**config["data"], "train": str(moved)}}
    assert will_resume(spec(elsewhere, run))


@pytest.mark.parametrize("kind", ["fifo", "device", "link to a device"])
def test_a_fifo_or_device_as_data_file_is_refused(
    kind: str, config: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "other.tsv"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind != "device":
        path.symlink_to("/dev/zero")
    config["data"]["validation"] = str(path)
    with pytest.raises(ConfigError, match=r"data.validation: .* is not a regular file; copy"):
        train(config, tmp_path / "run", [])


def test_a_recorded_config_trains_and_evaluates_on_the_data_that_it_records(
    config: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(config, run, [])
    recorded = read_config(run)
    assert list(recorded["data_files"]) == ["train"]
    file.write_text(EDITED)
    for use in (lambda: train(recorded, tmp_path / "again", []), lambda: restored(run)):
        with pytest.raises(ConfigError, match=r"lines.tsv has changed since .*: restore it"):
            use()
    assert not (tmp_path / "again").exists()


class _Started(list[str]):
    """The runs that a sweep has started."""

    def __call__(self, jobs: Sequence[Any], _: Any) -> None:
        self.extend(job.name for job in jobs)


@pytest.mark.parametrize("tune", [None, "lr"])
def test_a_sweep_refuses_data_files_that_changed_since_its_start(
    tune: str | None,
    compose: Compose,
    config: dict[str, Any],
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seed 0, an edit, seed 1: both would have entered one mean."""
    started = _Started()

    def composed(overrides: Sequence[str]) -> dict[str, Any]:
        return compose("data=labels", f"data.train={file}", "trainer=cpu", *overrides)

    options = {"retry": [], "tune": tune, "grid": tune and [1e-3, 1e-2], "seeds": None}
    sweep = Sweep(tmp_path / "sweep", composed, options, started, lambda jobs: None)
    if tune:  # none of the runs for tuning ends, so nothing can be chosen
        with pytest.raises(ConfigError):
            sweep.run([["seed=0"]], ())
    else:
        sweep.run([["seed=0"]], ())
    known = list(started)
    assert known
    file.write_text(EDITED)
    for seed in (0, 1):
        with pytest.raises(ConfigError, match=r"lines.tsv has changed since the sweep in "):
            sweep.run([[f"seed={seed}"]], ())
    assert started == known
    file.write_text(LINES)
    if not tune:
        sweep.run([["seed=1"]], ())
        assert len(started) == 2  # as the file holds again what it held
