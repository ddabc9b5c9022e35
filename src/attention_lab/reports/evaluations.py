"""Replace the test metrics of runs by those that `attention-lab evaluate` saved."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from attention_lab.reports.runs import RecordedRun, section
from attention_lab.tracking.evaluations import evaluation_file, read_evaluation, terms_of
from attention_lab.tracking.untrusted_files import UnreadableRecord

#: The keys of an evaluation on another test split that replace those of ``result.json``.
_BASELINES = ("trivial_baseline", "shortcut_baselines")


def with_evaluation(runs: Sequence[RecordedRun], name: str) -> list[RecordedRun]:
    """The runs, with the test metrics of an evaluation in each finished run.

    Args:
        runs: the runs.
        name: the name of the evaluation: "num_beams=5" for `evaluate --num-beams 5`, "last" for
            `evaluate --checkpoint last`, or "data.test=other.tsv" for that override.

    Raises:
        ValueError: if a finished run has no such evaluation of its checkpoint, or the runs were
            evaluated on different examples.
    """
    if not all(_is_term(term) for term in terms_of(name)):
        raise ValueError(
            f"--evaluation {name}: must be the name of an evaluation, such as num_beams=5 or "
            "data.test=other.tsv"
        )
    finished = [run for run in runs if run.status == "finished"]
    missing = [r for r in finished if not evaluation_file(r.directory, "test", name).exists()]
    if missing:
        count = f"{len(missing)} of {len(finished)} finished runs have no such evaluation"
        raise ValueError(
            f"--evaluation {name}: {count}; run {_command(missing[0].directory, name)}"
        )
    records = {run.directory: _evaluation(run.directory, name) for run in finished}
    _check_same_examples(name, records)
    return [
        _evaluated(run, records[run.directory]) if run.status == "finished" else run for run in runs
    ]


def _is_term(term: str) -> bool:
    return "/" not in term or term.startswith("data.")


def _evaluation(directory: Path, name: str) -> dict[str, Any]:
    """The saved evaluation of a run; ValueError if there is none of its checkpoint."""
    from attention_lab.training.checkpoint.checkpoint_io import checksum_of  # it imports torch

    file = evaluation_file(directory, "test", name)
    try:
        record = read_evaluation(file)
        checkpoint = "last" if "last" in terms_of(name) else "best"
        checksum = checksum_of(directory / "checkpoints" / f"{checkpoint}.ckpt")
        is_current = checksum == record.get("checkpoint_sha256")
    except (FileNotFoundError, UnreadableRecord) as error:
        raise ValueError(f"--evaluation {name}: {error}") from None
    if not is_current:
        again = _command(directory, name)
        raise ValueError(f"--evaluation {name}: {file} is from an older checkpoint; run {again}")
    return record


def _check_same_examples(name: str, records: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise ValueError if files differ, or if runs left out different examples as too long."""
    for (first, expected), (directory, record) in pairwise(records.items()):
        if record.get("data_files") != expected.get("data_files"):
            raise ValueError(
                f"--evaluation {name}: {first} and {directory} were evaluated on different files; "
                f"run {_command(first, name)} and {_command(directory, name)}"
            )
        if record.get("left_out", 0) != expected.get("left_out", 0):
            raise ValueError(
                f"--evaluation {name}: {first} left out {expected.get('left_out', 0)} examples as "
                f"too long, and {directory} {record.get('left_out', 0)}, so they cannot be compared"
            )


def _evaluated(run: RecordedRun, record: Mapping[str, Any]) -> RecordedRun:
    """A run with the metrics of an evaluation, and the baselines if they are of other data."""
    result = {**(run.result or {}), "test": dict(section(record, "metrics"))}
    result |= {key: dict(section(record, key)) for key in _BASELINES if "overrides" in record}
    return replace(run, result=result)


def _command(directory: Path, name: str) -> str:
    """The command that creates an evaluation."""
    options = []
    for term in terms_of(name):
        key, _, value = term.partition("=") if "=" in term else ("checkpoint", "", term)
        is_override = key.startswith("data.")
        options += [term] if is_override else [f"--{key.replace('_', '-')}", value]
    return f"attention-lab evaluate {directory} {shlex.join(options)}"
