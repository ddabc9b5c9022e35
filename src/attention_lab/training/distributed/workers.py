"""Worker processes: redirecting their output, and stopping them."""

import io
import multiprocessing.util
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any

from attention_lab.printing import counted
from attention_lab.tracking.untrusted_files import open_to_append

#: Seconds that an interrupted process has to save and exit.
GRACE = 10.0
#: Files and sockets that a command has open, and those that it has open for each worker process.
#: Ranks connect to all others: two of them need 32 in all.
_FILES_OF_COMMAND, _FILES_OF_WORKER = 32, 8
#: The longest TMPDIR for sockets, in bytes: their paths end at 107.
_LONGEST_TMPDIR = 70


def cores() -> int:
    """The CPU cores available to this process, as limited by a cluster's allocation."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shorten_socket_paths() -> None:
    """Let multiprocessing make its sockets in /tmp if TMPDIR is too long for their paths.

    Call it before the first process of a fork server: multiprocessing keeps its directory.
    """
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) <= _LONGEST_TMPDIR:
        return
    tempfile.tempdir = "/tmp"
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


def reserve_open_files(processes: int) -> None:
    """Raise this process's limit of open files as far as it and its worker processes need.

    With too few, torch's rendezvous would retry for half an hour.

    Raises:
        ConfigError: if the limit cannot be raised so far.
    """
    needed = _FILES_OF_COMMAND + _FILES_OF_WORKER * processes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < needed:
        from attention_lab.config.components import ConfigError  # imports torch

        raise ConfigError(
            f"the limit of open files is {hard}, but {counted(processes, 'process')} can open "
            f"{needed}: use ulimit -n {needed}, or fewer processes"
        )
    if soft != unlimited and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def print_into(log: Path) -> None:
    """Append everything that this process prints to a file from now on."""
    with open_to_append(log) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


class _FileIgnoringErrors(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def ignore_output_errors() -> None:
    """Ignore write errors on stdout and stderr: a run must survive a closed terminal or pipe."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        is_ours = stream is getattr(sys, f"__{name}__")  # not replaced, as by a test
        if stream is not None and is_ours:
            raw = _FileIgnoringErrors(stream.fileno(), "w", closefd=False)
            replacement = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering or stream.write_through,
            )
            setattr(sys, name, replacement)


def end_with_parent() -> None:
    """Terminate this process when its parent process ends, for any reason."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # the run saves first
    time.sleep(GRACE)
    os._exit(1)


def stop(processes: Sequence[BaseProcess], patience: float = GRACE) -> None:
    """Wait for processes that were asked to terminate, then kill those that remain.

    Args:
        processes: the processes.
        patience: seconds to wait for all of them.
    """
    deadline = time.monotonic() + patience
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def killed_by(process: BaseProcess) -> str | None:
    """Describe the signal that killed a process, as "killed by SIGTERM"; None if none did."""
    code = process.exitcode
    if code is None or code >= 0:
        return None
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
