"""Replace the test metrics of runs by those that `attention-lab evaluate` saved."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attention_lab.reports.runs import RecordedRun, section
from attention_lab.tracking.evaluations import evaluation_file, read_evaluation
from attention_lab.tracking.untrusted_files import UnreadableRecord


def with_evaluation(runs: Sequence[RecordedRun], name: str) -> list[RecordedRun]:
    """The runs, with the test metrics of an evaluation in each finished run.

    Args:
        runs: the runs.
        name: the name of the evaluation: "num_beams=5" for `evaluate --num-beams 5`, or "last" for
            `evaluate --checkpoint last`.

    Raises:
        ValueError: if a finished run has no such evaluation of its checkpoint.
    """
    if "/" in name:
        raise ValueError(
            f"--evaluation {name}: must be the name of an evaluation, such as num_beams=5"
        )
    finished = [run for run in runs if run.status == "finished"]
    missing = [r for r in finished if not evaluation_file(r.directory, "test", name).exists()]
    if missing:
        count = f"{len(missing)} of {len(finished)} finished runs have no such evaluation"
        raise ValueError(
            f"--evaluation {name}: {count}; run {_command(missing[0].directory, name)}"
        )
    return [_evaluated(run, name) if run.status == "finished" else run for run in runs]


def _evaluated(run: RecordedRun, name: str) -> RecordedRun:
    from attention_lab.training.checkpoint.checkpoint_io import checksum_of  # it imports torch

    file = evaluation_file(run.directory, "test", name)
    try:
        record = read_evaluation(file)
        checkpoint = "last" if "last" in name.split(",") else "best"
        checksum = checksum_of(run.directory / "checkpoints" / f"{checkpoint}.ckpt")
        is_current = checksum == record.get("checkpoint_sha256")
    except (FileNotFoundError, UnreadableRecord) as error:
        raise ValueError(f"--evaluation {name}: {error}") from None
    if not is_current:
        again = _command(run.directory, name)
        raise ValueError(f"--evaluation {name}: {file} is from an older checkpoint; run {again}")
    return replace(run, result={**(run.result or {}), "test": dict(section(record, "metrics"))})


def _command(directory: Path, name: str) -> str:
    """The command that creates an evaluation."""
    known = [term if "=" in term else f"checkpoint={term}" for term in name.split(",")]
    named = [term.partition("=") for term in known]
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, _, value in named)
    return f"attention-lab evaluate {directory}{options}"
