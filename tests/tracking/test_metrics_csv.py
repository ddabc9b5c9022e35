"""metrics.csv: no logged row is lost, and rows after a checkpoint can be removed."""

import csv
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from attention_lab.tracking import csv_file as module
from attention_lab.tracking.metrics_csv import MetricsCSVLogger


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.csv"


@pytest.fixture
def written(path: Path) -> MetricsCSVLogger:
    """A file with two rows of training and one of validation."""
    metrics = MetricsCSVLogger(path)
    for step, loss in enumerate([2.5, 1 / 3]):
        metrics.log_metrics({"train/loss": loss, "epoch": 0}, step)
        metrics.save()
    metrics.log_metrics({"validation/per": 0.1 + 0.2}, 2)
    metrics.save()
    return metrics


WRITTEN = [
    {"step": "0", "epoch": "0", "train/loss": "2.5", "validation/per": ""},
    {"step": "1", "epoch": "0", "train/loss": repr(1 / 3), "validation/per": ""},
    {"step": "2", "epoch": "", "train/loss": "", "validation/per": "0.30000000000000004"},
]


def test_a_row_for_each_call_and_a_column_for_each_metric(
    written: MetricsCSVLogger, path: Path
) -> None:
    assert read(path) == WRITTEN
    assert path.read_text().splitlines()[0] == "epoch,step,train/loss,validation/per"
    assert written.rows == 3


def test_known_metrics_are_appended(
    written: MetricsCSVLogger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    inode = path.stat().st_ino
    written.log_metrics({"train/loss": 0.5}, 3)
    written.log_metrics({"train/loss": 0.25}, 4)
    assert path.read_bytes() == before
    written.save()
    assert path.read_bytes() == before + b",3,0.5,\n,4,0.25,\n"
    assert path.stat().st_ino == inode


def test_the_old_file_stays_until_the_new_one_is_complete(
    written: MetricsCSVLogger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: Any) -> NoReturn:
        assert read(path) == WRITTEN
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", break_off)
        written.log_metrics({"test/per": 0.5}, 3)
        with pytest.raises(OSError, match="No space left"):
            written.save()
    assert read(path) == WRITTEN
    written.save()
    assert [row["test/per"] for row in read(path)] == ["", "", "", "0.5"]


@pytest.mark.parametrize("tail", ["", ",9,0.1", "0,9,0.1,\n0,10,0.05,\n"])
def test_another_process_resumes_after_the_kept_rows(
    tail: str, written: MetricsCSVLogger, path: Path
) -> None:
    with path.open("a") as file:
        file.write(tail)  # after the checkpoint, the last of it perhaps cut off
    metrics = MetricsCSVLogger(path)
    metrics.resume(3)
    assert read(path) == WRITTEN
    metrics.log_metrics({"train/loss": 0.5, "new": 1}, 3)
    metrics.save()
    assert read(path)[:3] == [row | {"new": ""} for row in WRITTEN]
    assert read(path)[3]["train/loss"] == "0.5"
    assert metrics.rows == 4


def test_a_run_that_starts_over_discards_earlier_rows(
    written: MetricsCSVLogger, path: Path
) -> None:
    again = MetricsCSVLogger(path)
    assert read(path) == WRITTEN
    again.log_metrics({"other": 1}, 0)
    again.save()
    assert read(path) == [{"step": "0", "other": "1"}]


def test_missing_rows_give_a_warning(written: MetricsCSVLogger, path: Path) -> None:
    path.write_text(path.read_text().rpartition(",2,")[0])
    metrics = MetricsCSVLogger(path)
    with pytest.warns(UserWarning, match=r"metrics\.csv has 2 rows instead of 3"):
        metrics.resume(3)
    assert metrics.rows == 2
    path.unlink()
    with pytest.warns(UserWarning, match="has 0 rows instead of 3"):
        metrics.resume(3)
    metrics.log_metrics({"a": 1}, 0)
    metrics.save()
    assert read(path) == [{"a": "1", "step": "0"}]


def test_synced_rows_are_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, str]] = []

    def spy(file: int) -> None:
        synced.append((os.fstat(file).st_ino, path.read_text() if path.exists() else ""))

    monkeypatch.setattr(os, "fsync", spy)
    metrics = MetricsCSVLogger(path)
    metrics.sync()
    assert synced == []
    metrics.log_metrics({"a": 1}, 0)
    metrics.sync()
    assert synced[-1] == (path.stat().st_ino, "a,step\n1,0\n")


def test_new_columns_are_durable_once_rows_were_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, no checkpoint refers to the rows, so that a power failure may lose them."""
    rewrites: list[bool] = []
    write = module.write_atomically

    def spy(path: Path, text: str, durable: bool) -> None:
        rewrites.append(durable)
        write(path, text, durable)

    monkeypatch.setattr(module, "write_atomically", spy)
    metrics = MetricsCSVLogger(path)
    metrics.log_metrics({"a": 1}, 0)
    metrics.sync()
    metrics.log_metrics({"b": 1}, 1)
    metrics.save()
    resumed = MetricsCSVLogger(path)
    resumed.resume(2)
    resumed.log_metrics({"c": 1}, 2)
    resumed.save()
    assert rewrites == [False, True, True, True]
