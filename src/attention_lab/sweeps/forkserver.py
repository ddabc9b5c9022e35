"""Processes for jobs, forked by a server that has imported everything once.

A job starts in milliseconds, and nothing that it does (a crash, an environment variable, a W&B
run) affects another job. Results are files in the run directories.
"""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from attention_lab.config.resolve import RunSpec
from attention_lab.printing import warning_line
from attention_lab.tracking.untrusted_files import last_lines
from attention_lab.training.distributed.cluster_environment import TORCHRUN, TORCHRUN_EXTRAS
from attention_lab.training.distributed.launch import launch
from attention_lab.training.distributed.workers import (
    end_with_parent,
    killed_by,
    print_into,
    shorten_socket_paths,
)

#: Environment variables that describe the sweep's process; its jobs must not inherit them.
PROCESS_VARIABLES = (
    *(*TORCHRUN, *TORCHRUN_EXTRAS),
    *("PL_GLOBAL_SEED", "WANDB_RUN_ID", "WANDB_RESUME"),
)

_IMPORTED_BEFORE = frozenset(sys.modules)

#: Starts a job with a value for CUDA_VISIBLE_DEVICES; None leaves the variable as it is.
Start = Callable[[RunSpec, str | None], BaseProcess]


def job_starter(threads: int) -> Start:
    """A function that starts each job in a separate process.

    Args:
        threads: CPU threads of each job.
    """
    # Libraries read it when the fork server imports them.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for name in PROCESS_VARIABLES:
        os.environ.pop(name, None)
    known = multiprocessing.get_all_start_methods()
    shorten_socket_paths()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    # Checking the jobs has imported what they need, such as a dataset's libraries.
    checked = [name for name in sys.modules if name not in _IMPORTED_BEFORE]
    context.set_forkserver_preload([*checked, "attention_lab.sweeps.forkserver_preload"])

    def start(job: RunSpec, gpus: str | None) -> BaseProcess:
        process: BaseProcess = context.Process(
            target=_run_job,
            args=(job, threads, gpus, dict(os.environ)),
            name=job.directory.name,
        )
        process.start()
        return process

    return start


def _run_job(job: RunSpec, threads: int, gpus: str | None, environment: dict[str, str]) -> None:
    """In the job's process: train, and print into the run's ``log.txt``."""
    log = job.directory / "log.txt"
    print_into(log)
    # The fork server keeps the environment of the first sweep that this process has run.
    os.environ.clear()
    os.environ |= environment
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    # A shell starts background jobs with SIGINT ignored, but jobs are ended by it here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    torch.set_num_threads(threads)
    warnings.formatwarning = warning_line
    try:
        launch(job, log)
    except KeyboardInterrupt:
        sys.exit(1)  # the run has recorded it


def exit_reason(process: BaseProcess, log: Path) -> str:
    """Why a process exited without recording it, in one line."""
    if (by := killed_by(process)) is not None:
        return by
    last = (last_lines(log) or [""])[-1]
    return f"exit code {process.exitcode}: {last}"
