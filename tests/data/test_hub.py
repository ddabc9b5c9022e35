"""Datasets of the Hugging Face hub: recorded with commit and hash, cached, one line for errors."""

import fcntl
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attention_lab.config.components import ConfigError
from attention_lab.data.files import hub as hub_module
from attention_lab.data.files.hub import HubDataset, hub_dataset
from attention_lab.tracking.run_config import resolve
from attention_lab.training.build import load_data
from tests.conftest import Compose
from tests.data.fake_hub import COMMIT, fake_hub
from tests.training.conftest import read_status
from tests.training.ranks.test_process_group import torchrun

pytestmark = pytest.mark.usefixtures("own_cache")
ROWS = [{"en": f"one {n}", "de": f"eins {n}", "stars": n % 2} for n in range(60)]
BOOKS = ("data.source=hub", "data.name=me/books", "data.columns=[en,de]")


class Table:
    """The part of ``datasets.Dataset`` that is used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.column_names = list(rows[0])
        self.features = {
            name: SimpleNamespace(names=["bad", "good"]) if name == "stars" else SimpleNamespace()
            for name in rows[0]
        }

    def flatten(self) -> "Table":
        return self

    def select_columns(self, columns: list[str]) -> "Table":
        return Table([{column: row[column] for column in columns} for row in self.rows])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([dict(row) for row in self.rows])


class DatasetNotFoundError(Exception):
    """As in ``datasets.exceptions``."""


class Hub:
    """Both packages, with one dataset; counts how often they are asked."""

    def __init__(self) -> None:
        self.downloads: list[tuple[Any, ...]] = []
        self.newest = COMMIT

    def load_dataset(self, name: str, subset: str | None, revision: str, split: str) -> Table:
        self.downloads.append((name, subset, revision, split))
        if name != "me/books":
            raise DatasetNotFoundError("a text\nof several lines")
        if split not in ("train", "test"):
            raise ValueError(f"Unknown split {split!r}.\nShould be one of ['train', 'test'].")
        return Table(ROWS if split == "train" else ROWS[:5])

    def HfApi(self) -> "Hub":  # its name
        return self

    def dataset_info(self, name: str, revision: str | None, timeout: float) -> Any:
        return SimpleNamespace(sha=self.newest)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub in place of both packages."""
    made = Hub()
    hub_module._commit.cache_clear()
    for name in ("datasets", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, made)
    return made


def test_a_split_is_downloaded_once(hub: Hub) -> None:
    file = HubDataset("me/books").file("train", ["en", "stars"])
    first, second, *_ = map(json.loads, file.read_text().splitlines())
    assert (first, second) == ({"en": "one 0", "stars": "bad"}, {"en": "one 1", "stars": "good"})
    assert HubDataset("me/books", revision=COMMIT).file("train", ["en", "stars"]) == file
    assert hub.downloads == [("me/books", None, COMMIT, "train")]
    assert HubDataset("me/books", revision="1" * 40).file("train", ["en", "stars"]) != file


def test_a_run_records_the_commit_and_the_content(hub: Hub, compose: Compose) -> None:
    config = resolve(compose("data=pairs", *BOOKS, "data.test=test"))
    assert config.record["data"]["revision"] == COMMIT
    assert set(config.record["data_files"]) == {"train", "test"}
    data = load_data(config)
    assert len(data.split("test").lengths()) == 5
    hub_module._commit.cache_clear()
    hub.newest = "1" * 40  # the record keeps its commit, and needs no network
    hub.downloads.clear()
    assert resolve(config.record).identity == config.identity
    load_data(config)
    assert hub.downloads == []
    changed = resolve(compose("data=pairs", *BOOKS, "data.test=test"))
    assert changed.identity != config.identity


def test_changed_content_is_refused(hub: Hub, compose: Compose) -> None:
    config = resolve(compose("data=pairs", *BOOKS))
    file = HubDataset("me/books", revision=COMMIT).file("train", ["en", "de"])
    file.write_text(file.read_text() + '{"en": "x", "de": "y"}\n')
    with pytest.raises(ConfigError, match="has changed since this run's config was recorded"):
        load_data(config)


@pytest.mark.parametrize(("data", "column"), [("labels", "[en,stars]"), ("text", "[en]")])
def test_labels_and_texts_come_from_the_hub(
    hub: Hub, compose: Compose, data: str, column: str
) -> None:
    small = ["data.length=8"] if data == "text" else []
    options = (f"data={data}", "data.source=hub", "data.name=me/books", f"data.columns={column}")
    loaded = load_data(resolve(compose(*options, *small)))
    assert loaded.is_loaded
    if data == "labels":
        assert loaded.classes == ["bad", "good"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["data.name=me/nope"], "data.name=me/nope: the hub has no such dataset, or it is private"),
        (["data.name=null"], "data.name='' must be the name of a dataset of the hub"),
        (["data.name=../books"], "data.name='../books' must be the name of a dataset of the hub"),
        (["data.train=tset"], "Unknown split 'tset'. Should be one of ['train', 'test']."),
        (["data.columns=[en,fr]"], "has no column 'fr'; choose from en, de, stars with"),
        (["data.source=files"], "data: name=me/books is for data.source=hub only"),
    ],
)
def test_errors_are_one_line(hub: Hub, compose: Compose, options: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_data(resolve(compose("data=pairs", *BOOKS, "data.train=train", *options)))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_local_directory_is_not_read_in_place_of_a_dataset(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package prefers a directory of that name, whose content has no commit."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "books").mkdir(parents=True)
    with pytest.raises(ValueError, match="has a directory of this name; start the command"):
        HubDataset("me/books").file("train", ["en"])
    assert hub.downloads == []


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, compose: Compose) -> None:
    hub_module._commit.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs a package: pip install 'attention-lab\[datasets"):
        resolve(compose("data=pairs", *BOOKS))
    assert hub_dataset("files", None, None, None) is None


def test_one_process_downloads_and_others_wait(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the ranks of a run that torchrun has started."""
    file = HubDataset("me/books").file("train", ["en"])
    content = file.read_bytes()
    file.unlink()
    hub.downloads.clear()
    waits, lock = threading.Event(), fcntl.flock

    def wait_for_lock(*arguments: Any) -> None:
        waits.set()
        lock(*arguments)

    found: list[Path] = []
    other = threading.Thread(
        target=lambda: found.append(HubDataset("me/books").file("train", ["en"]))
    )
    with hub_module._locked(file.with_suffix(".lock")):
        monkeypatch.setattr(hub_module.fcntl, "flock", wait_for_lock)
        other.start()
        assert waits.wait(60)
        file.write_bytes(content)
    other.join()
    assert (found, hub.downloads) == ([file], [])


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine for the processes that the test starts; yields the requests so far.

    They read its address when they import the packages.
    """
    pytest.importorskip("datasets", reason="needs the extra datasets")
    directory = tmp_path / "hub" / "me" / "books"
    directory.mkdir(parents=True)
    (directory / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with fake_hub(tmp_path / "hub") as (address, requests):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield requests


@pytest.mark.usefixtures("local_hub")
def test_the_packages_download_from_a_hub() -> None:
    code = (
        "from attention_lab.data.files.hub import HubDataset\n"
        "print(HubDataset('me/books').file('train', ['de']).read_text())\n"
        "for name, split in (('me/books', 'tset'), ('me/nope', 'train'), ('me/gated', 'train')):\n"
        "    try: HubDataset(name).file(split, ['de'])\n"
        "    except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '{"de": "eins 59"}' in done.stdout
    assert "data.name=me/books: Unknown split" in done.stdout
    assert "data.name=me/nope: the hub has no such dataset, or it is private\n" in done.stdout
    assert "data.name=me/gated: it is gated: accept its terms" in done.stdout


#: A run on two ranks.
TWO_RANKS = (
    *("-m", "attention_lab", "train", "data=pairs", *BOOKS, "trainer=ddp_cpu", "logger=csv"),
    *("trainer.devices=2", "trainer.max_steps=2", "model.d_model=16", "hydra.run.dir=run"),
)


def test_ranks_of_torchrun_train_on_one_download(local_hub: list[str], tmp_path: Path) -> None:
    torchrun(*TWO_RANKS)
    assert read_status(tmp_path / "run")["status"] == "finished"
    downloads = [it for it in local_hub if re.match(r"GET \S+/resolve/\S+/train.jsonl", it)]
    assert len(downloads) == 1


def test_a_failed_download_ends_all_ranks_with_one_line(
    local_hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as ended:
        torchrun(*TWO_RANKS, "data.columns=[en,fr]")
    assert ended.value.stderr.count("has no column 'fr'; choose from en, de, stars") == 1
    assert re.search(r"exitcode *: 2 ", ended.value.stderr)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    command = [sys.executable, *TWO_RANKS]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr == "attention-lab: data.name=me/books: the hub cannot be reached\n"
    assert not (tmp_path / "run").exists()
