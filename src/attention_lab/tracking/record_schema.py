"""The schema of the record files of runs and sweeps, and its version."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from attention_lab.tracking.untrusted_files import UnreadableRecord

#: The schema version of all records: config.yaml, status.json, result.json, sweep.json and
#: checkpoints. It changes when earlier records would be misread.
SCHEMA_VERSION = 1
#: The key of the version in a record.
VERSION_KEY = "schema_version"

Status = Literal["running", "finished", "failed", "diverged", "preempted", "pruned"]


class _Progress(TypedDict):
    step: int
    steps: int
    metrics: dict[str, float]
    mode: NotRequired[str]


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
    #: The settings that make it a debug run.
    debug: list[str]
    wandb_id: str
    git_revision: str | None
    versions: dict[str, str]
    command: str
    error: str | None
    progress: _Progress | None


class RunResult(TypedDict, total=False):
    """The content of ``result.json``. Metrics are by name, without the split."""

    task: str
    #: The metric that selected the best checkpoint, and whether its "min" or "max" is best.
    monitor: str
    mode: Literal["min", "max"]
    #: The smallest and the greatest possible value of each metric; None means unbounded.
    bounds: dict[str, list[float | None]]
    #: The validation metrics at the best validation, and at the last one.
    validation: dict[str, float]
    last: dict[str, float]
    #: The test metrics with the weights of the best checkpoint.
    test: dict[str, float]
    #: The test metrics of the trivial baseline, and of the shortcut baselines by name.
    trivial_baseline: dict[str, float]
    shortcut_baselines: dict[str, dict[str, float]]
    parameters: int
    tokens_per_second: float
    peak_memory_bytes: int | None
    steps: int
    best_step: int
    #: The trivial baseline's monitored metric on validation, and the first step that beat it.
    threshold: float
    steps_to_threshold: int | None
    area_under_curve: float
    seconds: dict[str, float]
    #: The attention backend of each layer.
    backends: dict[str, str]
    #: The layers whose output in training differs from the recorded weights times values, with the
    #: greatest difference, relative to the size of the output.
    attention_mismatches: dict[str, float]
    #: Whether the training loss was compiled, in the last process if it was resumed.
    compiled: bool


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


class _EncodedMap(TypedDict):
    """An attention map in ``maps.json`` and in the viewer (``viewer.encode_map``)."""

    step: int
    example: str
    layer: str
    rows: list[str]
    columns: list[str]
    sources: int | None
    note: str
    limit: float
    zero: int
    levels: int
    heads: list[str]


#: The types of the keys that other code uses. Other keys may hold any plain data.
_SCHEMAS: Mapping[str, Any] = {
    "status.json": _StatusRecord,
    "result.json": RunResult,
    "sweep.json": _SweepRecord,
    "maps.json": list[_EncodedMap],
}


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


def check_types(path: Path, content: Any) -> None:
    """Raise UnreadableRecord, naming the key, if a record has a value of a wrong type."""
    if path.name not in _SCHEMAS:
        return
    from pydantic import ValidationError  # a quarter of a second

    try:
        _adapter(path.name).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UnreadableRecord(path, f"has a wrong value for {key:.80}: {first['msg']}") from None


@cache
def _adapter(name: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_SCHEMAS[name])
