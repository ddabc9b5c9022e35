"""The jobs of a sweep: checked together, then each run in a process of its own.

A fork server that has imported everything once forks a clean process for each job, so a job
starts in milliseconds, and nothing that one job does (a crash, an environment variable, a W&B run)
reaches another. Results come back as files in the run directories, never through memory.
"""

import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from attention_lab.recording.run_directory import RunExists, write_config
from attention_lab.training.nodes import ConfigError
from attention_lab.training.run import build, load_data, train
from attention_lab.training.sections import check

POLL_SECONDS = 0.2
#: How long an interrupted job may take to put its affairs in order.
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """One run of a sweep: where it goes, its resolved config, and what was asked for."""

    directory: Path
    config: Mapping[str, Any]
    overrides: list[str]


def job_names(jobs: Sequence[Sequence[str]], first: int = 0) -> list[str]:
    """A readable, unique directory name for each job: the overrides in which jobs differ.

    Names are numbered where they would not be unique, and in every batch of a sweep but the first.

    >>> job_names([["attention=additive", "seed=0"], ["attention=additive", "seed=1"]])
    ['seed=0', 'seed=1']
    """
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    names = []
    for overrides in jobs:
        name = ",".join(part for part in overrides if part not in common)
        safe = re.sub(r"[^\w=.,+-]+", "_", name)
        if safe != name or len(safe) > 120:
            safe = f"{safe[:100]}-{blake2b(name.encode(), digest_size=4).hexdigest()}"
        names.append(safe)
    if first or len(set(names)) < len(names) or "" in names:
        return [f"{first + index}-{name}".rstrip("-") for index, name in enumerate(names)]
    return names


def check_jobs(jobs: Sequence[Job]) -> None:
    """Build every distinct job once, so that a mistake is found before anything runs.

    Raises:
        ConfigError: naming the job that cannot work.
    """
    data_by_config: dict[str, Any] = {}
    built: set[str] = set()
    for job in jobs:
        without_seed = _canonical(job.config)
        if without_seed in built:
            continue
        built.add(without_seed)
        try:
            check(job.config)
            key = _canonical(job.config["data"])
            if key not in data_by_config:
                data_by_config[key] = load_data(job.config)
            build(job.config, data_by_config[key])
        except ConfigError as error:
            raise ConfigError(f"{job.directory.name}: {error}") from error


def _canonical(config: Mapping[str, Any]) -> str:
    """A config without its seeds, which change nothing about whether it can work."""

    def without_seed(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: without_seed(inner) for key, inner in value.items() if key != "seed"}
        return value

    return json.dumps(without_seed(config), sort_keys=True, default=str)


def run_jobs(jobs: Sequence[Job], parallel: int | None, threads: int) -> list[float]:
    """Run jobs, ``parallel`` at a time, and show how each stands.

    Args:
        jobs: what to run.
        parallel: jobs at a time; None means one for each CPU core, or one where there is a GPU.
        threads: CPU threads of each job.

    Raises:
        ConfigError: if ``parallel`` or ``threads`` is below 1.
        RunExists: if a job's directory is there already.

    Returns:
        The monitored validation metric of each job; NaN for one that did not finish.
    """
    if threads < 1 or (parallel is not None and parallel < 1):
        raise ConfigError("hydra.launcher: parallel and threads must be at least 1")
    if parallel is None:
        parallel = 1 if torch.cuda.is_available() else max(1, _cores() // threads)
    _make_directories(jobs)
    start = _job_starter(threads)
    waiting, running = list(jobs), list[tuple[Job, BaseProcess]]()
    with _display(jobs) as show:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    running.append((job, start(job)))
                time.sleep(POLL_SECONDS)
                ended = [not process.is_alive() for _, process in running]
                for (job, _), has_ended in zip(running, ended, strict=True):
                    show(job, has_ended)
                running = [pair for pair, gone in zip(running, ended, strict=True) if not gone]
        except KeyboardInterrupt:
            _stop([process for _, process in running])
            raise
    return [_monitored_value(job) for job in jobs]


def _cores() -> int:
    """The CPU cores that this process may use, which a cluster's allocation limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _make_directories(jobs: Sequence[Job]) -> None:
    """Every job's directory with its config: a job that never starts is seen to be missing.

    Raises:
        RunExists: if one is there already: results of another sweep are not taken for these.
    """
    for job in jobs:
        if job.directory.exists():
            raise RunExists(f"{job.directory} exists already; name another sweep directory")
    for job in jobs:
        job.directory.mkdir(parents=True)
        write_config(job.directory, job.config)


def _job_starter(threads: int) -> Callable[[Job], BaseProcess]:
    """A function that starts a job in a process forked from a warm, clean server."""
    # Read when the fork server starts, by the libraries that it imports.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attention_lab.training.run"])

    def start(job: Job) -> BaseProcess:
        group = job.directory.parent.name
        arguments = (job.directory, dict(job.config), job.overrides, group, threads)
        process = context.Process(target=_run_job, args=arguments, name=job.directory.name)
        process.start()
        return process

    return start


def _run_job(
    directory: Path, config: Mapping[str, Any], overrides: list[str], group: str, threads: int
) -> None:
    """In the job's own process: train, with everything printed going to the run's ``log.txt``."""
    with (directory / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(threads)
    train(config, directory, overrides, group)


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Ctrl-C has reached the jobs, too: give them time to record it, then end them."""
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.terminate()
            process.join()


def _read(path: Path) -> dict[str, Any]:
    """A record that another process writes; empty as long as there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _monitored_value(job: Job) -> float:
    result = _read(job.directory / "result.json")
    return result["validation"][result["monitor"]] if result else float("nan")


def _outcome(job: Job) -> str:
    """How an ended job went, in a few words."""
    status, result = _read(job.directory / "status.json"), _read(job.directory / "result.json")
    if result:
        monitor = result["monitor"]
        return f"finished   validation/{monitor} {result['validation'][monitor]:.4f}"
    if not status or status["status"] == "running":
        return f"died without a word; see {job.directory / 'log.txt'}"
    return f"{status['status']}: {status['error']}"


@contextmanager
def _display(jobs: Sequence[Job]) -> Iterator[Callable[[Job, bool], None]]:
    """Shows jobs as they go: bars in a terminal, elsewhere one line for each job that ends."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        ended = 0

        def print_when_ended(job: Job, has_ended: bool) -> None:
            nonlocal ended
            if has_ended:
                ended += 1
                print(f"[{ended}/{len(jobs)}] {job.directory.name}  {_outcome(job)}", flush=True)

        yield print_when_ended
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[Path, TaskID] = {}
        overall = progress.add_task("sweep", total=len(jobs), note=f"{len(jobs)} runs")

        def update(job: Job, has_ended: bool) -> None:
            if job.directory not in tasks:
                name = job.directory.name
                tasks[job.directory] = progress.add_task(name, total=None, note="starting")
            task = tasks[job.directory]
            if has_ended:
                progress.remove_task(task)
                progress.console.print(f"{job.directory.name}  {_outcome(job)}", highlight=False)
                progress.advance(overall)
            elif standing := _read(job.directory / "status.json").get("progress"):
                note = "".join(f"{name} {x:.3f}" for name, x in standing["metrics"].items())
                progress.update(
                    task, completed=standing["step"], total=standing["steps"], note=note
                )

        yield update
