"""Runs with the results of `attention-lab evaluate` in place of those of their own test."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attention_lab.reports.runs import Run, section
from attention_lab.tracking.evaluations import evaluation_file, read_evaluation
from attention_lab.tracking.record_files import UnreadableRecord


def with_evaluation(runs: Sequence[Run], terms: str) -> list[Run]:
    """The runs, each finished one with the test metrics of an evaluation.

    Args:
        runs: as they were read.
        terms: what the evaluation did otherwise, as "beam=5" of `evaluate --beam 5`, or "last" of
            `evaluate --checkpoint last`.

    Raises:
        ValueError: if a finished run has no such evaluation of its checkpoint.
    """
    if "/" in terms:
        raise ValueError(f"--evaluation {terms}: name an evaluation, such as beam=5")
    finished = [run for run in runs if run.status == "finished"]
    missing = [r for r in finished if not evaluation_file(r.directory, "test", terms).exists()]
    if missing:
        count = f"{len(missing)} of {len(finished)} finished runs have none"
        raise ValueError(f"--evaluation {terms}: {count}; {_command(missing[0].directory, terms)}")
    return [_evaluated(run, terms) if run.status == "finished" else run for run in runs]


def _evaluated(run: Run, terms: str) -> Run:
    from attention_lab.training.checkpoint.checkpoint_io import checksum_of  # it imports torch

    file = evaluation_file(run.directory, "test", terms)
    try:
        record = read_evaluation(file)
        name = "last" if "last" in terms.split(",") else "best"
        checksum = checksum_of(run.directory / "checkpoints" / f"{name}.ckpt")
        is_current = checksum == record.get("checkpoint_sha256")
    except (FileNotFoundError, UnreadableRecord) as error:
        raise ValueError(f"--evaluation {terms}: {error}") from None
    if not is_current:
        again = _command(run.directory, terms)
        raise ValueError(f"--evaluation {terms}: {file} is of an older checkpoint; {again}")
    return replace(run, result={**(run.result or {}), "test": dict(section(record, "metrics"))})


def _command(directory: Path, terms: str) -> str:
    """How to make an evaluation."""
    known = [term if "=" in term else f"checkpoint={term}" for term in terms.split(",")]
    named = [term.partition("=") for term in known]
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, _, value in named)
    return f"attention-lab evaluate {directory}{options}"
