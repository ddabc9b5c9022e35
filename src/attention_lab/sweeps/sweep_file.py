"""``sweep.json``: the jobs of a sweep, including those that have not started."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attention_lab.atomic_write import write_atomically
from attention_lab.config.components import ConfigError
from attention_lab.config.data_files import recorded_hashes
from attention_lab.config.identity import differences, identity
from attention_lab.config.overrides import key_of
from attention_lab.config.resolve import RunSpec
from attention_lab.data.files.paths import shown
from attention_lab.tracking.init_from import recorded_checksum
from attention_lab.tracking.record_files import json_text, read_record
from attention_lab.tracking.run_directory import (
    SWEEP,
    command_line,
    read_config,
    write_config,
)
from attention_lab.tracking.untrusted_files import UnreadableRecord

#: The directory below a sweep for the runs of its tuning.
TUNING = "tuning"


def add_jobs(sweep: Path, jobs: Sequence[RunSpec]) -> None:
    """Add jobs to a sweep, each with a directory that holds its config; existing jobs stay.

    Raises:
        ConfigError: if the sweep has a job with the same overrides but another config, such as
            after an edit of ``conf/``: their results could not be distinguished.
    """
    check_unchanged(sweep, jobs)
    known = _read(sweep)
    for job in jobs:
        if not (job.directory / "config.yaml").exists():
            job.directory.mkdir(parents=True, exist_ok=True)
            write_config(job.directory, job.config.record)
    listed = {job["directory"] for job in known["jobs"]}
    new = [
        {"directory": job.directory.name, "overrides": list(job.overrides)}
        for job in jobs
        if job.directory.name not in listed
    ]
    files = known.get("data_files", {}) | dict(_files(jobs))
    _write(sweep, known | {"ended": None, "jobs": known["jobs"] + new, "data_files": files})


def check_unchanged(sweep: Path, jobs: Sequence[RunSpec]) -> None:
    """Raise ConfigError if a file has changed, or a job's config but not its overrides."""
    files = {**_read(sweep / TUNING).get("data_files", {}), **_read(sweep).get("data_files", {})}
    for path, digest in _files(jobs):
        if (known := files.setdefault(path, digest)) != digest:
            raise ConfigError(
                f"{shown(path)} has changed since the sweep in {sweep} was started (SHA-256 "
                f"{known[:8]}…, now {digest[:8]}…): restore it, or use another sweep: "
                "hydra.sweep.dir=…"
            )
    by_overrides = {tuple(job["overrides"]): job["directory"] for job in _read(sweep)["jobs"]}
    for job in jobs:
        earlier = by_overrides.get(tuple(job.overrides), job.directory.name)
        if earlier != job.directory.name:
            _refuse(sweep / earlier, job)


def _files(jobs: Sequence[RunSpec]) -> Iterator[tuple[str, str]]:
    """The paths and hashes of the data files and checkpoints that jobs start from."""
    for job in jobs:
        yield from recorded_hashes(job.config.record).items()
        yield from recorded_checksum(job.config.record).items()


def add_tuning(sweep: Path, tuning: Mapping[str, Any]) -> None:
    """Record the setting chosen for each group, in addition to existing groups.

    If the choice for a group has changed, jobs with the old one leave the sweep.

    Raises:
        ConfigError: if other groups of the sweep were tuned with another grid or other seeds.
    """
    known = _read(sweep)
    chosen = {tuple(choice["overrides"]): choice for choice in tuning["choices"]}
    earlier = known["tuning"] or tuning
    kept = [each for each in earlier["choices"] if tuple(each["overrides"]) not in chosen]
    for name in ("key", "grid", "seeds"):
        if kept and earlier[name] != tuning[name]:
            raise ConfigError(
                f"{sweep}: other groups were tuned with another {name}, {earlier[name]}; name "
                "another sweep: hydra.sweep.dir=…"
            )
    jobs = [job for job in known["jobs"] if not _is_superseded(job, tuning["key"], chosen)]
    merged = {**tuning, "choices": [*kept, *chosen.values()]}
    _write(sweep, known | {"jobs": jobs, "tuning": merged})


def end(sweep: Path) -> None:
    """Record that the command has ended."""
    _write(sweep, _read(sweep) | {"ended": _now()})


def listed_jobs(sweep: Path) -> dict[Path, list[str]]:
    """The run directories of a sweep's jobs in order, and the overrides of each.

    Raises:
        FileNotFoundError: if there is no such sweep.
        UnreadableRecord: if its record is of another version, or not safe to read.
    """
    jobs = read_record(sweep / SWEEP).get("jobs", [])
    return {sweep / job["directory"]: job["overrides"] for job in jobs}


def _is_superseded(
    job: Mapping[str, Any], key: str, chosen: Mapping[tuple[str, ...], Mapping[str, Any]]
) -> bool:
    """Whether a job uses an earlier choice for its group."""
    group = tuple(o for o in job["overrides"] if key_of(o) not in ("seed", key))
    return group in chosen and f"{key}={chosen[group]['value']}" not in job["overrides"]


def _refuse(earlier: Path, job: RunSpec) -> None:
    try:
        known = read_config(earlier)
    except UnreadableRecord as error:
        raise ConfigError(f"{error}; use another sweep: hydra.sweep.dir=…") from None
    if identity(known) != identity(job.config.record):
        different = "; ".join(differences(known, job.config.record))
        raise ConfigError(
            f"{earlier} was started with the same overrides but another config ({different}); use "
            "another sweep: hydra.sweep.dir=…"
        )


def _read(sweep: Path) -> dict[str, Any]:
    try:
        known = {"jobs": [], "tuning": None, **read_record(sweep / SWEEP)}
    except FileNotFoundError:
        known = {"started": _now(), "jobs": [], "tuning": None}
    except UnreadableRecord as error:
        raise ConfigError(f"{error}; remove the file or use another sweep") from None
    # Several commands may add jobs to one sweep; the record names the latest.
    now = {"command": command_line(), "pid": os.getpid(), "host": socket.gethostname()}
    return known | now


def _write(sweep: Path, content: Mapping[str, Any]) -> None:
    write_atomically(sweep / SWEEP, json_text(content))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
