"""Processes that work for another: they end with it, and it finds out what became of them."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any

from attention_lab.tracking.record_files import open_to_append

#: How long an interrupted process may take to put its affairs in order, in seconds.
GRACE = 10.0


def cores() -> int:
    """The CPU cores that this process may use, which a cluster's allocation limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def print_into(log: Path) -> None:
    """From now on, everything that this process prints goes to the end of a file."""
    with open_to_append(log) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


class _Lasting(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def outlive_readers() -> None:
    """From now on, drop what cannot be printed: a run may outlive its terminal, or a ``| head``."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        is_ours = stream is getattr(sys, f"__{name}__")  # nobody has replaced it
        if stream is not None and is_ours:
            raw = _Lasting(stream.fileno(), "w", closefd=False)
            lasting = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering or stream.write_through,
            )
            setattr(sys, name, lasting)


def end_with_parent() -> None:
    """From now on, end this process when that which started it has ended, however that came."""
    threading.Thread(target=_outlast_the_parent, daemon=True).start()


def _outlast_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # which saves first
    time.sleep(GRACE)
    os._exit(1)


def stop(processes: Sequence[BaseProcess], patience: float = GRACE) -> None:
    """Processes have been told to end: give them time to record it, then end them.

    Args:
        processes: to be ended.
        patience: how long to wait for all of them, in seconds.
    """
    deadline = time.monotonic() + patience
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def killer(process: BaseProcess) -> str | None:
    """What signal ended a process, in words; None if none did."""
    code = process.exitcode
    if code is None or code >= 0:
        return None
    name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
