"""Data files that a config names: make paths absolute, record hashes, find changed files."""

from pathlib import Path
from typing import Any

from attention_lab.config.components import Config, ConfigError
from attention_lab.config.environment_variables import VARIABLE, with_environment
from attention_lab.config.validate import component
from attention_lab.data.files.file_hashes import sha256
from attention_lab.data.files.hub import HubDataset, hub_dataset
from attention_lab.data.files.paths import expanded, shown


def with_hashes(config: Config) -> Config:
    """The config with absolute paths of data files, and their SHA-256 under ``data_files``.

    Hashes that the config already has are kept. A file that cannot be read gets none: the dataset
    reports the error. For a dataset of the hub, the revision becomes a commit hash.

    Raises:
        ValueError: if a dataset of the hub cannot be downloaded.
    """
    data, recorded = config["data"], config.get("data_files", {})
    if hub := _hub(data):
        found = {"revision": hub.commit()}
    else:
        names = component(config, "data").files
        found = {name: _absolute(data[name]) for name in names if name in data}
    config = {**config, "data": {**data, **found}}
    hashes = {
        name: recorded.get(name) or _hashes(paths)
        for name, paths in with_environment(_local_files(config)).items()
        if paths
    }
    files = {name: each for name, each in hashes.items() if each}
    others = {key: value for key, value in config.items() if key != "data_files"}
    return others | ({"data_files": files} if files else {})


def recorded_hashes(config: Config) -> dict[str, str]:
    """The SHA-256 of each data file that a config records, by its path."""
    recorded = config.get("data_files", {})
    files = _local_files(config) if recorded else {}
    return {
        path: digest
        for name, hashes in recorded.items()
        for path, digest in zip(_as_list(files.get(name)), _as_list(hashes), strict=False)
    }


def check_regular(config: Config) -> None:
    """Raise ConfigError if a data file is a FIFO or a device: reading it may never end."""
    if config["data"].get("source") == "hub":
        return
    for name in component(config, "data").files:
        for path in map(Path, filter(None, _as_list(config["data"].get(name)))):
            if _is_endless(expanded(path)):
                raise ConfigError(
                    f"data.{name}: {shown(path)} is not a regular file; copy its content into one"
                )


def _local_files(config: Config) -> dict[str, Any]:
    """The paths of the data files by argument; those of a dataset of the hub are in the cache.

    Raises:
        ValueError: if a dataset of the hub cannot be downloaded.
    """
    data, kind = config["data"], component(config, "data")
    given = {name: data[name] for name in kind.files if name in data}
    hub = _hub(data)
    if hub is None:
        return given
    columns = data.get("columns") or kind.default_columns
    given[kind.files[0]] = given.get(kind.files[0]) or "train"
    return {
        name: [str(hub.file(split, columns)) for split in _as_list(splits)]
        for name, splits in given.items()
        if splits
    }


def _hub(data: Config) -> HubDataset | None:
    """The dataset of the hub that a config names; None for files."""
    if data.get("source") != "hub":
        return None
    return hub_dataset("hub", data.get("name"), data.get("subset"), data.get("revision"))


def _is_endless(path: Path) -> bool:
    """Whether a path is a FIFO or a device; False if the file cannot be found."""
    try:
        return path.is_fifo() or path.is_char_device()
    except OSError:  # such as too long a name; the dataset reports it
        return False


def check_unchanged(config: Config) -> None:
    """Raise ConfigError if the content of a data file differs from what the config records."""
    for path, known in recorded_hashes(config).items():
        now = _hashes(path)
        if now not in (known, None):
            raise ConfigError(
                f"{shown(path)} has changed since this run's config was recorded (SHA-256 "
                f"{known[:8]}…, now {now[:8]}…): restore it, or train on it as a new run"
            )


def _absolute(paths: Any) -> Any:
    """A path, or each path of a list, made absolute unless it has an environment variable."""
    if isinstance(paths, str) and paths and not VARIABLE.search(paths):
        return str(expanded(paths).resolve())
    return [_absolute(path) for path in paths] if isinstance(paths, list) else paths


def _hashes(paths: Any) -> Any:
    """The SHA-256 of a file, or of each in a list; None if one cannot be read."""
    if isinstance(paths, str):
        try:
            return sha256(expanded(paths))
        except OSError:
            return None
    each = [_hashes(path) for path in paths]
    return each if all(each) else None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
