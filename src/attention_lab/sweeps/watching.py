"""Watching sweeps from another terminal: all that is needed is in their files."""

import time
from collections.abc import Sequence
from pathlib import Path

from attention_lab.reports.records import NotARun
from attention_lab.sweeps.display import EVERY, display
from attention_lab.sweeps.standing import Standing, is_held, standing
from attention_lab.sweeps.sweep_file import job_directories


def watch(sweeps: Sequence[Path]) -> None:
    """Show how the jobs of sweeps stand, until no process is at work on any of them.

    Raises:
        NotARun: for a directory without a sweep.
    """
    ended: dict[Path, Standing] = {}
    with display(_jobs(sweeps)) as shown:
        while True:
            is_over = not any(map(is_held, sweeps))  # before the last look
            jobs = _jobs(sweeps)
            shown.directories = jobs  # a search draws more as it goes
            for path in jobs:
                found = standing(path)
                if path not in ended and found.state not in ("waiting", "running"):
                    ended[path] = found
                    shown.ended(path, found)
                elif found.state == "running":
                    ended.pop(path, None)
            shown.refresh()
            if is_over:
                return
            time.sleep(EVERY)


def _jobs(sweeps: Sequence[Path]) -> list[Path]:
    try:
        return [path for sweep in sweeps for path in job_directories(sweep)]
    except OSError as error:
        raise NotARun(f"there is no sweep to watch: {error.filename} is missing") from error
