"""Processes for jobs: clean ones, forked by a server that has imported everything once.

A job starts in milliseconds, and nothing that one does (a crash, an environment variable, a W&B
run) reaches another. Results come back as files in the run directories, never through memory.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from attention_lab.config.resolve import RunSpec
from attention_lab.tracking.record_files import last_lines
from attention_lab.training.distributed.cluster_environment import TORCHRUN, TORCHRUN_EXTRAS
from attention_lab.training.distributed.launch import launch
from attention_lab.training.distributed.workers import end_with_parent, killer, print_into

#: What a launcher around the sweep may have told its own processes, and not the jobs.
OF_A_PROCESS_GROUP = (
    *(*TORCHRUN, *TORCHRUN_EXTRAS),
    *("PL_GLOBAL_SEED", "WANDB_RUN_ID", "WANDB_RESUME"),
)

_IMPORTED_BEFORE = frozenset(sys.modules)

#: Starts a job; its GPUs are what CUDA_VISIBLE_DEVICES shall say, None to leave that as it is.
Start = Callable[[RunSpec, str | None], BaseProcess]


def job_starter(threads: int) -> Start:
    """What starts jobs in clean processes.

    Args:
        threads: CPU threads of each job.
    """
    # Read when the fork server starts, by the libraries that it imports.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for name in OF_A_PROCESS_GROUP:
        os.environ.pop(name, None)
    known = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    # To check the jobs has brought in what they will need, as a dataset's own libraries.
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
    """In the job's own process: train, with everything printed going to the run's ``log.txt``."""
    log = job.directory / "log.txt"
    print_into(log)
    # The fork server has the environment of the first sweep of its process.
    os.environ.clear()
    os.environ |= environment
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    # A shell's background job is started deaf to it, but it is how jobs are ended here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    torch.set_num_threads(threads)
    try:
        launch(job, log)
    except KeyboardInterrupt:
        sys.exit(1)  # it is recorded; a traceback would say no more


def cause_of_death(process: BaseProcess, log: Path) -> str:
    """Why a process ended without recording it, in a line."""
    if (by := killer(process)) is not None:
        return by
    last = (last_lines(log) or [""])[-1]
    return f"ended with exit code {process.exitcode}: {last}"
