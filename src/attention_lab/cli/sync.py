"""`attention-lab sync`: upload W&B runs that were logged offline or interrupted online."""

import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from attention_lab.cli import fail
from attention_lab.cli.parser import Parser, directory_path
from attention_lab.external_programs import run_program
from attention_lab.printing import counted, echo

#: Seconds between two uploads with --watch.
INTERVAL = 30.0
#: Levels of directories that are searched for runs, including the given directory.
DEPTH = 4


def run(arguments: Sequence[str]) -> int:
    """Upload all runs that have ended; with ``--watch``, also runs that end later."""
    parser = Parser("sync", __doc__)
    parser.add_argument(
        "directories",
        type=directory_path,
        nargs="*",
        default=[Path("outputs")],
        metavar="DIRECTORY",
        help="a directory of runs or sweeps; default: outputs",
    )
    parser.add_argument(
        "--watch", action="store_true", help="repeat until no run is running or in SLURM's queue"
    )
    chosen = parser.parse_args(arguments)
    for directory in chosen.directories:
        if not directory.is_dir():
            return fail(f"{directory}: not a directory", 2)
    if find_spec("wandb") is None:
        return fail("nothing uploaded: wandb is not installed; run `pip install wandb`", 2)

    from attention_lab.tracking.wandb_logger import is_logged_in, server

    if not is_logged_in(server()):
        return fail(f"nothing uploaded: not logged in to {server()}; run `wandb login`", 2)
    while True:
        # Checked first, so that a run that ends during the upload gets a last upload.
        is_last = not (chosen.watch and any(map(_is_active, chosen.directories)))
        code = _upload(chosen.directories)
        if is_last:
            return code
        time.sleep(INTERVAL)


def not_uploaded(directory: Path) -> list[Path]:
    """The parts of runs below a directory that are not uploaded yet."""
    return [part for part in _parts([directory]) if not _is_uploaded(part)]


def _parts(directories: Sequence[Path]) -> list[Path]:
    """The directories of W&B runs, in order; a run has one part for each start or resume."""
    kinds = ("offline-run-*", "run-*")
    patterns = ["*/" * depth + f"wandb/{kind}" for depth in range(DEPTH) for kind in kinds]
    # One directory may contain another. Links out of a directory are not followed.
    parts = {
        part.resolve()
        for directory in directories
        for pattern in patterns
        for part in directory.glob(pattern)
        if part.resolve().is_relative_to(directory.resolve())
    }
    return sorted(parts, key=lambda part: (part.parent, part.name.removeprefix("offline-")))


def _is_active(directory: Path) -> bool:
    """Whether a run or a sweep in a directory is running or in SLURM's queue."""
    from attention_lab.sweeps.slurm_queue import NoQueue, in_queue
    from attention_lab.tracking.lock import LOCK, is_locked
    from attention_lab.tracking.run_directory import SUBMISSION

    patterns = ["*/" * depth for depth in range(DEPTH)]
    if any(is_locked(lock.parent) for each in patterns for lock in directory.glob(each + LOCK)):
        return True
    noted = [path.parent for each in patterns for path in directory.glob(each + SUBMISSION)]
    try:
        return bool(in_queue(noted))
    except NoQueue:  # no SLURM here, or it does not answer
        return False


def _upload(directories: Sequence[Path]) -> int:
    """Upload the parts that are complete, each once; returns the exit code.

    W&B appends each part to the earlier parts of its run. After one fails, no other is uploaded.
    """
    from attention_lab.tracking.lock import is_locked
    from attention_lab.tracking.untrusted_files import link_leading_out
    from attention_lab.tracking.wandb_logger import server

    known = _parts(directories)
    parts = [part for part in known if not _is_uploaded(part)]
    # A run that is running still writes to its latest part.
    latest = {part.parent: part for part in known}
    ready = [p for p in parts if p != latest[p.parent] or not is_locked(p.parent.parent)]
    for part in ready:
        if (link := link_leading_out(part, skip="logs")) is not None:  # W&B would upload the file
            return fail(f"nothing uploaded: {link} is a symbolic link out of its run; remove it", 1)
    if ready:
        done = run_program(
            *(sys.executable, "-P", "-m", "wandb", "sync", "--include-online", *map(str, ready)),
            timeout=None,
            environment=os.environ | {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "false"},
        )
        uploaded = [part for part in ready if _is_uploaded(part)]
        runs = len({part.parent for part in uploaded})
        echo(f"uploaded {counted(len(uploaded), 'part')} of {counted(runs, 'run')} to {server()}")
        if len(uploaded) < len(ready):
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            errors = [line for line in lines if "ERROR" in line]
            said = (errors or lines or [f"exit code {done.returncode}"])[-1]
            missing = counted(len(ready) - len(uploaded), "part")
            return fail(f"{missing} not uploaded: {said}", 1)
    if left := len(parts) - len(ready):
        echo(f"{counted(left, 'part')} not uploaded yet: still running")
    elif not ready:
        echo("nothing to upload")
    return 0


def _is_uploaded(part: Path) -> bool:
    return any(part.glob("*.wandb.synced"))
