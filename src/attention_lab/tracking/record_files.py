"""Reading and writing the record files of runs and sweeps.

A file that may come from a stranger is read in bounded time and memory, and only if it holds plain
data of the schema that this release writes.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from attention_lab.tracking.record_schema import (
    SCHEMA_VERSION,
    VERSION_KEY,
    RunResult,
    check_types,
    check_version,
)
from attention_lab.tracking.untrusted_files import MalformedRecord, UnreadableRecord, read_bytes

#: The deepest nesting of mappings and lists.
MAX_DEPTH = 64
_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"

#: Sections of a run's config that commands read.
_READ_SECTIONS = ("attention", "model", "data", "task", "optimizer", "trainer", "logger")
_SURROGATE = re.compile("[\ud800-\udfff]")

# libyaml's parser takes a tenth of the time, where PyYAML was built with it. Both are safe loaders.
_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_record(path: Path, root: Path | None = None) -> dict[str, Any]:
    """Read a record of this release's schema; returns it without the version.

    Args:
        path: a ``config.yaml``, ``status.json``, ``result.json``, ``sweep.json`` or an evaluation.
        root: the directory that links must not leave; None means the record's own.

    Raises:
        FileNotFoundError: if there is none.
        MalformedRecord: if it is not valid JSON or YAML, for example because it is truncated.
        UnreadableRecord: if it is of another version, or not plain data of the right types.
    """
    content = (read_yaml if path.suffix == ".yaml" else read_json)(path, root)
    if not isinstance(content, dict):
        raise UnreadableRecord(path, "holds no mapping")
    check_version(path, content)
    check_types(path, content)
    if path.name == "sweep.json":
        _check_directories(path, content)
    if path.name == "config.yaml":
        _check_is_data(path, content)
    return {key: value for key, value in content.items() if key != VERSION_KEY}


def read_result(directory: Path) -> RunResult:
    """The ``result.json`` of a run; raises as :func:`read_record`."""
    return cast(RunResult, read_record(directory / "result.json"))


def with_version(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its schema version as the first key."""
    return {VERSION_KEY: SCHEMA_VERSION, **record}


def json_text(record: Mapping[str, Any]) -> str:
    """A record as the text of a JSON file, with its version.

    A lone surrogate, for example from a file name in another encoding, becomes a question mark.
    """
    text = json.dumps(with_version(record), indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "replace").decode()


def _check_is_data(path: Path, config: Mapping[str, Any]) -> None:
    """Raise UnreadableRecord if a config has a section that controls Hydra."""
    for key, value in config.items():
        if key in _READ_SECTIONS and not isinstance(value, Mapping):
            raise UnreadableRecord(
                path, f"has {key}: {value!r:.80}, which must hold keys and values"
            )
    for key in ("hydra", "defaults", "sweep"):
        if key in config:
            raise UnreadableRecord(
                path, f"has a section {key}, which is not part of a run's config; remove it"
            )


def _check_directories(path: Path, sweep: Mapping[str, Any]) -> None:
    for job in sweep.get("jobs", []):
        name = job["directory"]
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise UnreadableRecord(path, f"lists {name!r:.80}, which is not a directory beside it")


def read_json(path: Path, root: Path | None = None) -> Any:
    """The content of a JSON file; raises like :func:`read_record`."""
    try:
        content = json.loads(read_bytes(path, root))
    except RecursionError:
        raise UnreadableRecord(path, _TOO_DEEP) from None
    except UnreadableRecord:
        raise
    except ValueError:
        raise MalformedRecord(path, "is not valid JSON, or was cut off") from None
    return _plain(path, content)


def read_yaml(path: Path, root: Path | None = None) -> Any:
    """The content of a YAML file without aliases; raises like :func:`read_record`."""
    content = read_bytes(path, root)
    try:
        # Checked before loading: aliases can expand exponentially; libyaml crashes on deep nesting.
        _check_events(path, content)
        return _plain(path, yaml.load(content, Loader=_YAML_LOADER))
    except UnreadableRecord:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        raise MalformedRecord(path, "is not valid YAML, or was cut off") from None


def _check_events(path: Path, content: bytes) -> None:
    depth = 0
    for event in yaml.parse(content, Loader=_YAML_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            raise UnreadableRecord(path, f"contains an alias, *{event.anchor}; write out its value")
        if depth > MAX_DEPTH:
            raise UnreadableRecord(path, _TOO_DEEP)


def _plain(path: Path, content: Any) -> Any:
    """The content, if it has only mappings, lists, strings, 64-bit numbers, booleans and None."""
    level, depth = [content], 0
    while level:
        if depth > MAX_DEPTH:
            raise UnreadableRecord(path, _TOO_DEEP)
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
                raise UnreadableRecord(path, "contains half a character (a lone surrogate)")
            elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
                raise UnreadableRecord(path, "contains an integer of more than 64 bits")
            elif not isinstance(value, str | int | float | None):
                raise UnreadableRecord(path, f"contains a {type(value).__name__}")
        level, depth = inner, depth + 1
    return content
