"""`attention-lab sync`: upload W&B runs that were logged offline, or cut off while online."""

import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from attention_lab.cli import fail
from attention_lab.cli.parser import Parser
from attention_lab.external_programs import run_program
from attention_lab.printing import echo

#: Seconds from one look at the runs to the next.
EVERY = 30.0
#: Directories from the one that is named down to a run at most, as from ``outputs/``.
DEPTH = 4


def run(arguments: Sequence[str]) -> int:
    """Send what has ended; with ``--watch``, all else as it ends."""
    parser = Parser("sync", __doc__)
    parser.add_argument(
        "directories",
        type=Path,
        nargs="*",
        default=[Path("outputs")],
        metavar="DIRECTORY",
        help="of runs or sweeps; default: outputs",
    )
    parser.add_argument(
        "--watch", action="store_true", help="go on until no run is at work or in SLURM's queue"
    )
    chosen = parser.parse_args(arguments)
    for directory in chosen.directories:
        if not directory.is_dir():
            return fail(f"{directory}: there is no such directory", 2)
    if find_spec("wandb") is None:
        return fail("wandb is not installed, so nothing was sent; `pip install wandb` first", 2)

    from attention_lab.tracking.wandb_logger import is_logged_in, server

    if not is_logged_in(server()):
        return fail(f"not logged in to {server()}, so nothing was sent; `wandb login` first", 2)
    while True:
        # Asked first: what ends meanwhile is sent before the last look.
        is_over = not (chosen.watch and any(map(_at_work, chosen.directories)))
        code = _send(chosen.directories)
        if is_over:
            return code
        time.sleep(EVERY)


def unsent(directory: Path) -> list[Path]:
    """The parts of runs below a directory that have yet to be sent."""
    return [part for part in _parts([directory]) if not _is_sent(part)]


def _parts(directories: Sequence[Path]) -> list[Path]:
    """What W&B has kept of runs, in order: a part for each time that one was started or resumed."""
    kinds = ("offline-run-*", "run-*")
    patterns = ["*/" * depth + f"wandb/{kind}" for depth in range(DEPTH) for kind in kinds]
    # One directory may be below another. What a link below leads to is another's.
    parts = {
        part.resolve()
        for directory in directories
        for pattern in patterns
        for part in directory.glob(pattern)
        if part.resolve().is_relative_to(directory.resolve())
    }
    return sorted(parts, key=lambda part: (part.parent, part.name.removeprefix("offline-")))


def _at_work(directory: Path) -> bool:
    """Whether any run, or a sweep of some, is at work or in the queue."""
    from attention_lab.sweeps.slurm_queue import NoQueue, in_queue
    from attention_lab.tracking.lock import LOCK, is_locked
    from attention_lab.tracking.run_directory import IN_QUEUE

    patterns = ["*/" * depth for depth in range(DEPTH)]
    if any(is_locked(lock.parent) for each in patterns for lock in directory.glob(each + LOCK)):
        return True
    noted = [path.parent for each in patterns for path in directory.glob(each + IN_QUEUE)]
    try:
        return bool(in_queue(noted))
    except NoQueue:  # none is here, or none answers
        return False


def _send(directories: Sequence[Path]) -> int:
    """Send the parts that are complete, each once.

    W&B puts each after those of its run that come before it, or takes none where one of them fails.
    """
    from attention_lab.tracking.lock import is_locked
    from attention_lab.tracking.record_files import link_out
    from attention_lab.tracking.wandb_logger import server

    known = _parts(directories)
    parts = [part for part in known if not _is_sent(part)]
    # A running run still writes to its latest part.
    latest = {part.parent: part for part in known}
    ready = [p for p in parts if p != latest[p.parent] or not is_locked(p.parent.parent)]
    for part in ready:
        if (link := link_out(part, without="logs")) is not None:  # W&B would upload the file
            return fail(f"{link} is a symbolic link out of its run; nothing sent; remove it", 1)
    if ready:
        done = run_program(
            *(sys.executable, "-P", "-m", "wandb", "sync", "--include-online", *map(str, ready)),
            timeout=None,
            environment=os.environ | {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "false"},
        )
        sent = [part for part in ready if _is_sent(part)]
        runs = len({part.parent for part in sent})
        echo(f"{len(sent)} parts of {runs} runs sent to {server()}")
        if len(sent) < len(ready):
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            errors = [line for line in lines if "ERROR" in line]
            said = (errors or lines or [f"exit code {done.returncode}"])[-1]
            return fail(f"{len(ready) - len(sent)} parts were not sent: {said}", 1)
    if left := len(parts) - len(ready):
        echo(f"{left} parts not sent: their runs are still running")
    elif not ready:
        echo("nothing to send")
    return 0


def _is_sent(part: Path) -> bool:
    return any(part.glob("*.wandb.synced"))
