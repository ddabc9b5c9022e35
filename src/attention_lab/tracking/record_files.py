"""Record files of runs and sweeps, read in bounded time and memory.

A run directory may come from a stranger. Only regular files inside it are read, up to a size limit,
and only if they hold plain data of the schema that this release writes.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, cast

import yaml
from typing_extensions import TypedDict  # which pydantic asks for before Python 3.12

#: The schema version of all records: config.yaml, status.json, result.json, sweep.json and
#: checkpoints. It changes when earlier records would be misread.
SCHEMA_VERSION = 1
#: Its key in a record.
VERSION_KEY = "schema_version"

KIB, MIB = 1 << 10, 1 << 20
#: The most bytes of a file that are read, by file name.
LIMITS = {
    ".lock": 4 * KIB,
    "config.yaml": 256 * KIB,
    "slurm.json": MIB,
    "status.json": 4 * MIB,
    "result.json": 16 * MIB,
    "sweep.json": 64 * MIB,
    "maps.json": 64 * MIB,
    "metrics.csv": 256 * MIB,
}
#: The most bytes of any other file, such as an image.
OTHER_LIMIT = 8 * MIB
#: The deepest nesting of mappings and lists.
MAX_DEPTH = 64
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SURROGATE = re.compile("[\ud800-\udfff]")

# libyaml's parser takes a tenth of the time, where PyYAML was built with it. Both are safe loaders.
_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Status = Literal["running", "finished", "failed", "diverged", "preempted"]


class UnreadableRecord(ValueError):
    """A file cannot be read safely. The message is one line, for the user.

    Args:
        path: the file.
        reason: a predicate, such as "is not a regular file".
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.reason = reason


class MalformedRecord(UnreadableRecord):
    """A record is truncated, for example by a power failure, or is not JSON or YAML."""


class _Progress(TypedDict):
    step: int
    steps: int
    metrics: dict[str, float]


class _StatusRecord(TypedDict, total=False):
    status: Status
    identity: str
    started: str
    resumed: list[str]
    updated: str
    finished: str | None
    pid: int | None
    host: str
    seed: int
    overrides: list[str]
    wandb_id: str
    git_revision: str | None
    versions: dict[str, str]
    command: str
    error: str | None
    progress: _Progress | None


class RunResult(TypedDict, total=False):
    """``result.json``; metrics by their names, without the split."""

    task: str
    #: The metric that chose the best checkpoint, and whether "min" or "max" of it is best.
    monitor: str
    mode: Literal["min", "max"]
    #: The smallest and the largest value of each metric; None where there is none.
    bounds: dict[str, list[float | None]]
    #: At the best and at the last validation.
    validation: dict[str, float]
    last: dict[str, float]
    #: With the weights of the best checkpoint.
    test: dict[str, float]
    #: Test metrics of the trivial baseline, and of shortcuts by their names.
    trivial_baseline: dict[str, float]
    shortcut_baselines: dict[str, dict[str, float]]
    parameters: int
    tokens_per_second: float
    peak_memory_bytes: int | None
    steps: int
    best_step: int
    #: The trivial baseline on validation, and the step at which the run was first better.
    threshold: float
    steps_to_threshold: int | None
    area_under_curve: float
    seconds: dict[str, float]
    #: The attention backend of each layer.
    backends: dict[str, str]


class _Job(TypedDict):
    directory: str
    overrides: list[str]


class _Choice(TypedDict):
    overrides: list[str]
    value: Any
    scores: dict[str, Any]


class _Tuning(TypedDict):
    key: str
    grid: list[Any]
    seeds: list[int]
    choices: list[_Choice]


class _SweepRecord(TypedDict, total=False):
    started: str
    ended: str | None
    command: str
    pid: int
    host: str
    jobs: list[_Job]
    tuning: _Tuning | None


#: The types of the keys that other code uses. Other keys may hold any plain data.
_SCHEMAS = {"status.json": _StatusRecord, "result.json": RunResult, "sweep.json": _SweepRecord}


def open_file(path: Path, root: Path | None = None, limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading, if it is inside its directory and not too large.

    Args:
        path: the file.
        root: the directory that links must not leave; None means the file's own.
        limit: the largest size in bytes; None means the limit for its name.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableRecord: if it is a FIFO, a device, a link out of the directory or too large.
    """
    root = path.parent if root is None else root
    limit = LIMITS.get(path.name, OTHER_LIMIT) if limit is None else limit
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise UnreadableRecord(path, f"is a symbolic link that leads out of {root}; copy the file")
    try:
        # Without O_NONBLOCK, opening a FIFO blocks until there is a writer.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except NotADirectoryError:
        raise
    except OSError as error:
        raise UnreadableRecord(path, f"cannot be opened: {error.strerror}") from None
    file = os.fdopen(descriptor, "rb") if _is_regular(descriptor) else None
    if file is None:
        os.close(descriptor)
        raise UnreadableRecord(path, "is not a regular file")
    if (size := os.fstat(descriptor).st_size) > limit:
        file.close()
        raise UnreadableRecord(path, f"has {size / MIB:.1f} MiB; at most {_size(limit)} are read")
    return file


def open_to_append(path: Path) -> TextIO:
    """Open a file for appending, and create it if missing; links are not followed.

    Raises:
        UnreadableRecord: if it is a link, a FIFO or a device.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise UnreadableRecord(path, "is not a regular file") from None
    if not _is_regular(descriptor):
        os.close(descriptor)
        raise UnreadableRecord(path, "is not a regular file")
    return os.fdopen(descriptor, "a+", encoding="utf-8")


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _size(limit: int) -> str:
    return f"{limit // MIB} MiB" if limit >= MIB else f"{limit // KIB} KiB"


def read_bytes(path: Path, root: Path | None = None, limit: int | None = None) -> bytes:
    """The content of a file, opened with :func:`open_file`."""
    with open_file(path, root, limit) as file:
        return file.read(LIMITS.get(path.name, OTHER_LIMIT) if limit is None else limit)


def is_png(path: Path, root: Path | None = None) -> bool:
    """Whether a file can be read and has the signature of a PNG image."""
    try:
        with open_file(path, root) as file:
            return file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE
    except (OSError, UnreadableRecord):
        return False


def last_lines(path: Path, root: Path | None = None) -> list[str]:
    """The non-blank lines in the last 64 KiB of a log; none if it cannot be read."""
    try:
        with open_file(path, root, limit=1 << 62) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * KIB))
            text = file.read(64 * KIB).decode("utf-8", errors="replace")
    except (OSError, UnreadableRecord):
        return []
    return [line for line in text.split("\n") if line.strip()]


def link_out(directory: Path, without: str) -> Path | None:
    """A symbolic link below a directory that leads out of it; None if there is none.

    Args:
        directory: the directory to search.
        without: the name of folders to skip.
    """
    root = os.path.realpath(directory)
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if name != without]
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                return path
    return None


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


def json_text(record: Mapping[str, Any], indent: int = 2) -> str:
    """A record as the text of a JSON file, with its version.

    A lone surrogate, for example from a file name in another encoding, becomes a question mark.
    """
    text = json.dumps(with_version(record), indent=indent, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "replace").decode()


def check_version(path: Path, content: Mapping[Any, Any]) -> None:
    """Raise UnreadableRecord unless a record has the schema version that this release reads."""
    version = content.get(VERSION_KEY)
    if type(version) is int and version == SCHEMA_VERSION:
        return
    found = f"{VERSION_KEY} {version!r:.20}" if VERSION_KEY in content else f"no {VERSION_KEY}"
    raise UnreadableRecord(
        path,
        f"has {found}, and this release reads {SCHEMA_VERSION}; use the release that wrote it, or "
        "train again with this one",
    )


def check_types(path: Path, content: Mapping[str, Any]) -> None:
    """Raise UnreadableRecord, naming the key, if a record has a value of a wrong type."""
    if path.name not in _SCHEMAS:
        return
    from pydantic import ValidationError  # a quarter of a second

    try:
        _adapter(path.name).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UnreadableRecord(path, f"has a wrong value for {key}: {first['msg']}") from None


def _check_is_data(path: Path, config: Mapping[str, Any]) -> None:
    """Raise UnreadableRecord if a config says how Hydra is to compose or launch something."""
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


@cache
def _adapter(name: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_SCHEMAS[name])


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
        # Checked before parsing: aliases can multiply, and libyaml crashes on deep nesting.
        _check_events(path, content)
        return _plain(path, yaml.load(content, Loader=_YAML_LOADER))
    except UnreadableRecord:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        raise MalformedRecord(path, "is not valid YAML, or was cut off") from None


_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"


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
