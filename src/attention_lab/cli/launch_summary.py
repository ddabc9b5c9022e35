"""What would be launched, in words."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attention_lab.cli.doctor_checks import LESS, Finding
from attention_lab.config.components import Config, create
from attention_lab.config.environment_variables import with_environment
from attention_lab.sweeps.jobs import Job
from attention_lab.sweeps.local_executor import Resources
from attention_lab.sweeps.slurm_executor import Slurm
from attention_lab.sweeps.slurm_queue import in_queue, longest_array
from attention_lab.sweeps.sweep import Stage
from attention_lab.sweeps.sweep_file import TUNING
from attention_lab.tracking.wandb_logger import LoggerOptions, problem, server
from attention_lab.training.build import Run, has_gpu
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.workers import cores

#: Of each stage of a sweep.
SHOWN = 10
SAVES = "saves between two steps"
#: What becomes of a run at a signal.
SIGNALS = f"SIGUSR1, SIGUSR2, SIGTERM: a run {SAVES} and stops"


class Shape(NamedTuple):
    """The processes of a run."""

    devices: int
    nodes: int
    on_gpus: bool
    #: CPU threads of each; None if they are not known here.
    threads: int | None
    #: What each of several holds of the model: "ddp" all of it, "fsdp" its share.
    strategy: str

    @classmethod
    def of(cls, config: Config, threads: int | None, on_gpus: bool | None = None) -> "Shape":
        """The shape of a run that has so many threads for all its processes on a machine."""
        trainer = config["trainer"]
        devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
        if on_gpus is None:
            accelerator = trainer.get("accelerator", "auto")
            on_gpus = accelerator == "gpu" or (accelerator == "auto" and has_gpu())
        each = threads and max(1, threads // devices)
        return cls(devices, nodes, on_gpus, each, trainer.get("strategy", "ddp"))

    @property
    def processes(self) -> int:
        return self.devices * self.nodes

    def __str__(self) -> str:
        one = self.processes == 1
        where = "" if self.nodes == 1 else f" ({self.devices} on each of {self.nodes} nodes)"
        device = f"{'' if one else 'each '}on {'a GPU' if self.on_gpus else 'the CPU'}"
        threads = "as many threads as SLURM gives it cores"
        if self.threads is not None:
            threads = _counted(self.threads, "thread")
        strategy = "" if one else f", by {self.strategy}"
        return f"{_counted(self.processes, 'process')}{where}, {device} with {threads}{strategy}"

    def total(self, runs: int) -> str:
        """What so many of them take."""
        processes = runs * self.processes
        if self.on_gpus:
            return f"{_counted(processes, 'process')}, {_counted(processes, 'GPU')}"
        if self.threads is None:
            return _counted(processes, "process")
        cores = _counted(processes * self.threads, "CPU core")
        return f"{_counted(processes, 'process')}, {cores}"


def one_run(config: Config, run: Run, directory: Path, is_begun: bool) -> Iterator[Finding]:
    """A run by itself.

    Args:
        config: the resolved config.
        run: the run built from it.
        directory: of the run.
        is_begun: whether it would go on there.
    """
    started, threads = process_group.world_size(), torch.get_num_threads()
    # They share those of this process unless they have been started, each with its own.
    shape = Shape.of(config, threads * (config["trainer"]["devices"] if started > 1 else 1))
    yield Finding("one run", "goes on from its latest checkpoint" if is_begun else "new")
    if started > 1:
        yield Finding("launched by", f"torchrun or srun, as {started} processes")
    yield Finding("it has", str(shape))
    yield Finding("in total", shape.total(1))
    steps_per_epoch = run.data.steps_per_epoch(shape.processes)
    yield Finding("trains for", run.trainer_options.budget(steps_per_epoch))
    yield Finding("directory", str(directory))
    yield Finding("W&B", _wandb(config, directory.parent.name))
    again = "the same command with the same hydra.run.dir goes on"
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        yield Finding("signals", f"{SIGNALS}; {again}")
    else:
        requeues = f"SIGUSR1, SIGUSR2: it {SAVES} and requeues SLURM job {job}"
        yield Finding("signals", f"{requeues}; SIGTERM: it saves and stops; {again}")
    yield Finding("Ctrl-C", "stops at once, and goes on from the latest checkpoint")


def search(sweeper: Mapping[str, Any]) -> Iterator[Finding]:
    """A search, whose trials are not known before."""
    kind = str((sweeper.get("sampler") or sweeper)["_target_"]).rpartition(".")[2]
    trials, at_once = sweeper.get("n_trials", "some"), sweeper.get("n_jobs", 1)
    yield Finding("search", f"{trials} trials, chosen as it goes: {kind}, {at_once} at a time")
    for name, interval in (sweeper.get("params") or {}).items():
        yield Finding("", f"{name}={interval}")


def sweep(
    stages: Sequence[Stage],
    place: Resources | Slurm,
    launcher: str,
    directory: Path,
    is_search: bool = False,
) -> Iterator[Finding]:
    """The jobs of a sweep, or the first trials of a search.

    Args:
        stages: the jobs that are known together.
        place: where they run.
        launcher: what that is called in the command.
        directory: of the sweep.
        is_search: whether the jobs are its first trials only.
    """
    jobs = [job for stage in stages for job in stage.jobs]
    to_run = [job for stage in stages for job in stage.to_run]
    for stage in stages:
        yield from _stage(stage, is_search)
    yield Finding("sweep", str(directory))
    if to_run and isinstance(place, Slurm):
        yield from _in_slurm(place, launcher, to_run)
    if to_run and isinstance(place, Resources):
        yield from _here(place, launcher, to_run)
    for logged in _distinct(jobs, lambda job: _wandb(job.config, job.group)):
        yield Finding("W&B", logged)


def _stage(stage: Stage, is_search: bool) -> Iterator[Finding]:
    """How many jobs there are, and the first of them."""
    about = "first" if is_search else "jobs"
    if is_tuning := stage.jobs[0].directory.parent.name == TUNING:
        about = "tuning"
    if stage.is_open:
        number = _counted(len(stage.jobs), "job")
        yield Finding("then", f"{number}, with the settings that the tuning chooses")
        return
    states = {job.directory: _state(stage, job) for job in stage.jobs}
    counts = Counter(states.values())
    parts = (f"{number} {state}" for state, number in counts.items())
    yield Finding(about, f"{len(stage.jobs)}: {', '.join(parts)}")
    for job in stage.jobs[:SHOWN]:
        path = job.directory.relative_to(job.directory.parents[is_tuning])
        yield Finding("", f"{states[job.directory]:<9} {job.name or 'as it is'}  in {path}")
    if (more := len(stage.jobs) - SHOWN) > 0:
        yield Finding("", f"and {more} more")
    shared = [each for each in stage.jobs[0].overrides if each not in _named(stage.jobs[0])]
    if shared:
        yield Finding("all with", " ".join(shared))


def _named(job: Job) -> list[str]:
    """Those of a job's overrides that its name has."""
    return [override for override in job.overrides if f",{override}," in f",{job.name},"]


def _state(stage: Stage, job: Job) -> str:
    state = stage.found[job.directory].state
    if job in stage.to_run:
        known = {"waiting": "new", "preempted": "goes on", "running": "at work"}
        return known.get(state, "again")
    return str(state)


def _here(place: Resources, launcher: str, jobs: Sequence[Job]) -> Iterator[Finding]:
    """Jobs as processes of this machine."""
    slots = place.slots_of(jobs)
    threads = place.threads_of_each(len(slots))
    at_once = min(len(slots), len(jobs))
    yield Finding("launcher", f"{launcher}: on this machine, {at_once} at a time")
    shapes = list(_distinct(jobs, lambda job: Shape.of(job.config, threads)))
    for shape in shapes:
        yield Finding("each job", str(shape))
    largest = max(shapes, key=lambda shape: shape.processes)
    yield _total(largest, at_once)
    gpus = sorted({slot for slot in slots if slot is not None})
    if gpus:
        yield Finding("", f"GPUs of each: {'; '.join(gpus)}")
    limit, retries = place.time_limit, place.retries
    minutes = "none" if limit is None else f"a job is ended after {limit:g} minutes"
    again = f"; one that failed is tried again, {retries} times at most" if retries else ""
    yield Finding("time limit", minutes + again)
    yield Finding("signals", f"{SIGNALS}; the same command goes on")
    yield Finding("Ctrl-C", "stops all jobs at once; the same command goes on with them")


def _total(shape: Shape, at_once: int) -> Finding:
    """What jobs take together, marked where they would have to wait for each other."""
    words, there = f"{shape.total(at_once)} at a time", cores()
    of_each = shape.processes * (shape.threads or 1)
    if shape.on_gpus or at_once * of_each <= there:
        return Finding("in total", words)
    fit = max(1, there // of_each)
    return Finding("in total", f"{words}; there are {there}: hydra.launcher.parallel={fit}", LESS)


def _in_slurm(place: Slurm, launcher: str, jobs: Sequence[Job]) -> Iterator[Finding]:
    """Jobs of SLURM's."""
    arrays = len(place.requests(jobs, longest_array()))
    queued = in_queue([job.directory for job in jobs])
    at_once = len(jobs) if place.at_once is None else min(place.at_once * arrays, len(jobs))
    limited = "as many at a time as SLURM lets" if place.at_once is None else f"{at_once} at a time"
    yield Finding("launcher", f"{launcher}: {_counted(arrays, 'array')} of jobs, {limited}")
    if queued:
        yield Finding("", f"{len(queued)} of them are in the queue already, and stay there")
    largest = None
    for request, alike in place.requests(jobs):
        threads = request.get("cpus_per_task")
        devices = request["ntasks_per_node"]
        shape = Shape.of(
            alike[0].config, threads and threads * devices, bool(request.get("gpus_per_node"))
        )
        asked = " ".join(f"--{name.replace('_', '-')}={value}" for name, value in request.items())
        yield Finding("each job", str(shape))
        yield Finding("asks for", asked)
        if largest is None or shape.processes > largest.processes:
            largest = shape
    assert largest is not None
    yield Finding("in total", f"{largest.total(at_once)} at a time, if there are as many")
    limit = "that of the partition" if place.time is None else _counted(place.time, "minute")
    yield Finding("time limit", f"{limit}; {place.signal} s before it a run is told to save")
    then = "is queued again" if place.requeue else "ends (hydra.launcher.requeue=false)"
    yield Finding(
        "signals", f"SIGUSR1, SIGUSR2: a run {SAVES} and {then}; SIGTERM: it saves, stops"
    )
    if place.wait:
        yield Finding("Ctrl-C", "leaves the jobs in the queue; `scancel` cancels them")
    else:
        yield Finding("this command", "submits the jobs, and returns")


def _wandb(config: Config, group: str) -> str:
    """Where a run is logged."""
    options = create(with_environment(config)["logger"], (LoggerOptions,))
    mode, why = options.mode()
    if mode == "off":
        return f"off: {why}"
    if mode == "online" and (said := problem(server())) is not None:
        mode, why = "offline", said
    entity = "" if options.entity is None else f"{options.entity}/"
    send = "; `attention-lab sync` sends it" if mode == "offline" else ""
    return f"{mode}: {why}{send}; project {entity}{options.project}, group {group}"


def _distinct(jobs: Iterable[Job], of: Callable[[Job], Any]) -> Iterable[Any]:
    return dict.fromkeys(of(job) for job in jobs)


def _counted(number: int, what: str) -> str:
    plural = {"process": "processes"}.get(what, f"{what}s")
    return f"{number} {what if number == 1 else plural}"
