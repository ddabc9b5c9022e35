"""Datasets of the Hugging Face hub, as JSON Lines files in the cache."""

import fcntl
import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

from attention_lab.atomic_write import replacing
from attention_lab.data.files.cache import cache_directory

#: Seconds to wait for an answer of the hub.
_TIMEOUT = 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
#: What to say about errors of ``huggingface_hub`` and ``datasets``, by the name of their class.
_REASONS = {
    "RepositoryNotFoundError": "the hub has no such dataset, or it is private",
    "DatasetNotFoundError": "the hub has no such dataset, or it is private or gated",
    "GatedRepoError": "it is gated: accept its terms on its page, and log in with `hf auth login`",
    "RevisionNotFoundError": "it has no such revision; leave out data.revision",
    "OfflineModeIsEnabled": "the hub is switched off by HF_HUB_OFFLINE, and it is not in the cache",
    "LocalEntryNotFoundError": "the hub cannot be reached, and it is not in the cache",
    "ConnectError": "the hub cannot be reached",
    "ConnectTimeout": "the hub cannot be reached",
    "ConnectionError": "the hub cannot be reached",
    "ReadTimeout": "the hub does not answer",
    "HfHubHTTPError": "the hub answers with an error",
}


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub: its name, its subset, and its revision.

    Raises:
        ValueError: if there is no name, or it is not that of a dataset of the hub.
    """

    name: str
    subset: str | None = None
    #: A commit hash, a branch or a tag; None means the newest.
    revision: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name or ""):
            raise ValueError(
                f"data.name={self.name!r} must be the name of a dataset of the hub, as in "
                "data.name=Helsinki-NLP/opus_books; files are read with data.source=files"
            )

    def commit(self) -> str:
        """The commit hash of the revision; the hub is asked unless it is one already.

        Raises:
            ValueError: if the hub does not answer, or has no such dataset or revision.
        """
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.revision
        return _commit(self)

    def file(self, split: str, columns: Sequence[str]) -> Path:
        """A file in the cache with some columns of a split; it is downloaded if it is not there.

        Columns inside a column have a dot: "translation.en". Numbers of classes become their names.

        Raises:
            ValueError: if the package is not installed, the hub cannot be reached, or the dataset,
                its subset, revision, split or a column does not exist; or if a local directory
                has the dataset's name.
        """
        commit = self.commit()
        key = repr((self.name, self.subset, commit, split, list(columns)))
        digest = blake2b(key.encode(), digest_size=16).hexdigest()
        path = cache_directory() / "hub" / f"{digest}.jsonl"
        if path.exists():
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Ranks that torchrun or srun has started need the file at the same time.
            with _locked(path.with_suffix(".lock")):
                if not path.exists():
                    _write(path, self._rows(commit, split, columns))
        except OSError as error:
            raise ValueError(
                f"cannot write {path}: {error.strerror}; set XDG_CACHE_HOME to another directory"
            ) from None
        return path

    def _rows(self, commit: str, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        datasets = _package("datasets")
        if Path(self.name).is_dir():  # `datasets` would read it instead
            raise ValueError(
                f"{self}: {Path.cwd()} has a directory of this name; start the command in another "
                "directory"
            )
        with self._one_line():
            table = datasets.load_dataset(self.name, self.subset, revision=commit, split=split)
        table = table.flatten()
        for column in columns:
            if column not in table.column_names:
                known = ", ".join(table.column_names)
                raise ValueError(
                    f"{self}: has no column {column!r}; choose from {known} with data.columns=[…]"
                )
        table = table.select_columns(list(dict.fromkeys(columns)))
        names = {
            column: feature.names
            for column, feature in table.features.items()
            if hasattr(feature, "names")  # a ClassLabel
        }
        for row in table:
            for column, known in names.items():
                number = row[column]
                row[column] = None if number is None or number < 0 else known[number]
            yield row

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Turn errors of the packages into a ValueError of one line."""
        try:
            yield
        # Their classes depend on the versions of the packages and of their HTTP clients.
        except Exception as error:
            names = [kind.__name__ for kind in type(error).__mro__]
            reason = next((_REASONS[name] for name in names if name in _REASONS), None)
            said = " ".join(str(error).split())
            raise ValueError(f"{self}: {reason or said or type(error).__name__}") from error

    def __str__(self) -> str:
        subset = f" data.subset={self.subset}" if self.subset else ""
        return f"data.name={self.name}{subset}"


def hub_dataset(
    source: str, name: str | None, subset: str | None, revision: str | None
) -> HubDataset | None:
    """The dataset of the hub that the arguments of a dataset name; None for files.

    Raises:
        ValueError: if there is no name, or a dataset is named although the source is files.
    """
    if source == "hub":
        return HubDataset(name or "", subset, revision)
    given = {"name": name, "subset": subset, "revision": revision}
    for key, value in given.items():
        if value is not None:
            raise ValueError(f"{key}={value} is for data.source=hub only")
    return None


@functools.cache
def _commit(dataset: HubDataset) -> str:
    """The commit hash of a revision; asked once, so that the runs of a sweep have the same."""
    _package("datasets")  # without it, asking the hub would be of no use
    hub = _package("huggingface_hub")
    with dataset._one_line():
        about = hub.HfApi().dataset_info(dataset.name, revision=dataset.revision, timeout=_TIMEOUT)
        return str(about.sha)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with replacing(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for an exclusive lock on a file, and hold it; it ends with the process, too."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(
            "data.source=hub needs a package: pip install 'attention-lab[datasets]'"
        ) from None
