"""A search's request to stop a run: a file in the run's directory.

A file reaches runs on other machines, and SLURM jobs that wait to be resumed.
"""

from pathlib import Path

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.untrusted_files import last_lines

#: The file, which holds the reason.
PRUNE = "prune.txt"


def request_pruning(directory: Path, reason: str) -> None:
    """Ask the run in a directory to stop; the reason becomes the error of its record."""
    write_atomically(directory / PRUNE, reason + "\n")


def end_request(directory: Path) -> None:
    """Remove the request, if there is one."""
    (directory / PRUNE).unlink(missing_ok=True)


def pruning_reason(directory: Path) -> str | None:
    """Why the run in a directory should stop; None if it should not."""
    lines = last_lines(directory / PRUNE)
    return lines[-1] if lines else None
