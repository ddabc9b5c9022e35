"""The lines of `attention-lab train … --dry-run`: jobs, processes, steps, directories."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attention_lab.cli import cost_lines
from attention_lab.cli.doctor_checks import LIMITED, Finding
from attention_lab.cli.throughput import Throughput
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.config.validate import components
from attention_lab.printing import counted
from attention_lab.sweeps.local_executor import Resources
from attention_lab.sweeps.slurm_executor import Slurm
from attention_lab.sweeps.slurm_queue import in_queue, longest_array
from attention_lab.sweeps.sweep import Stage
from attention_lab.sweeps.sweep_file import TUNING
from attention_lab.tracking.loggers import wandb_options
from attention_lab.tracking.wandb_logger import server, server_problem
from attention_lab.training.build import BuiltRun, has_gpu, load_data
from attention_lab.training.callbacks import may_stop_early
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.workers import cores
from attention_lab.training.trainer import TrainerOptions

#: The largest number of jobs listed for each stage of a sweep.
LISTED = 10


class Processes(NamedTuple):
    """The number of processes of a run, their devices, and their threads."""

    devices: int
    nodes: int
    on_gpus: bool
    #: CPU threads of each process; None if SLURM decides.
    threads: int | None
    #: "ddp" or "fsdp".
    strategy: str

    @classmethod
    def of(cls, config: RunConfig, threads: int | None, on_gpus: bool | None = None) -> "Processes":
        """The processes of a run, which share ``threads`` CPU threads on each machine."""
        trainer = config.values["trainer"]
        devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
        if on_gpus is None:
            accelerator = trainer.get("accelerator", "auto")
            on_gpus = accelerator == "gpu" or (accelerator == "auto" and has_gpu())
        each = threads and max(1, threads // devices)
        return cls(devices, nodes, on_gpus, each, trainer.get("strategy", "ddp"))

    @property
    def number(self) -> int:
        return self.devices * self.nodes

    def __str__(self) -> str:
        one = self.number == 1
        where = "" if self.nodes == 1 else f" ({self.devices} on each of {self.nodes} nodes)"
        device = f"{'' if one else 'each '}on {'a GPU' if self.on_gpus else 'the CPU'}"
        threads = "one thread for each core that SLURM allocates"
        if self.threads is not None:
            threads = counted(self.threads, "thread")
        strategy = "" if one else f", {self.strategy}"
        return f"{counted(self.number, 'process')}{where}, {device} with {threads}{strategy}"

    def total(self, runs: int) -> str:
        """The resources that ``runs`` runs of this kind need at the same time."""
        number = runs * self.number
        if self.on_gpus:
            return f"{counted(number, 'process')}, {counted(number, 'GPU')}"
        if self.threads is None:
            return counted(number, "process")
        return f"{counted(number, 'process')}, {counted(number * self.threads, 'CPU core')}"


def single_run(
    config: RunConfig,
    run: BuiltRun,
    directory: Path,
    is_resumed: bool,
    throughput: Throughput | None,
) -> Iterator[Finding]:
    """The lines for a single run.

    Args:
        config: the resolved config.
        run: the run built from it.
        directory: the run's directory.
        is_resumed: whether the run would resume from a checkpoint there.
        throughput: from which its time is estimated.
    """
    started, threads = process_group.world_size(), torch.get_num_threads()
    # The ranks share this process's threads, unless torchrun or srun has started each of them.
    devices = config.values["trainer"]["devices"]
    each = Processes.of(config, threads * (devices if started > 1 else 1))
    yield Finding("run", "resumes from its latest checkpoint" if is_resumed else "new")
    if started > 1:
        yield Finding("launched by", f"torchrun or srun, as {started} processes")
    yield Finding("processes", str(each))
    yield Finding("in total", each.total(1))
    options, stops_early = run.trainer_options, may_stop_early(map(type, run.callbacks))
    batches = run.data.batches_per_epoch(each.number, options.accumulate_grad_batches)
    yield Finding("training", options.budget(batches, stops_early))
    if run.initial_weights and not is_resumed:
        yield Finding("weights", run.initial_weights)
    yield from cost_lines.single_run(run, throughput)
    yield Finding("directory", str(directory))
    yield Finding("W&B", _wandb(config, directory.parent.name))


def search(sweeper: Mapping[str, Any]) -> Iterator[Finding]:
    """The lines for a search, whose trials are drawn while it runs."""
    kind = str((sweeper.get("sampler") or sweeper)["_target_"]).rpartition(".")[2]
    trials, at_once = sweeper.get("n_trials", "some"), sweeper.get("n_jobs", 1)
    yield Finding("search", f"{trials} trials, {at_once} at a time, drawn by {kind}")
    for name, interval in (sweeper.get("params") or {}).items():
        yield Finding("", f"{name}={interval}")


def sweep(
    stages: Sequence[Stage],
    place: Resources | Slurm,
    launcher: str,
    directory: Path,
    throughput: Throughput | None,
    is_search: bool = False,
) -> Iterator[Finding]:
    """The lines for the jobs of a sweep.

    Args:
        stages: the tuning, if there is one, and the other jobs.
        place: where the jobs run.
        launcher: the launcher's name on the command line.
        directory: the sweep's directory.
        throughput: of each job, from which the time is estimated.
        is_search: whether the jobs are only the first trials of a search.
    """
    jobs = [job for stage in stages for job in stage.jobs]
    to_run = [job for stage in stages for job in stage.to_run]
    for stage in stages:
        yield from _stage(stage, is_search)
    yield Finding("sweep", str(directory))
    if to_run and isinstance(place, Slurm):
        yield from _on_slurm(place, launcher, to_run)
    elif to_run and isinstance(place, Resources):
        yield from _here(place, launcher, to_run)
    for length in _distinct(_by_length(to_run), _training_length):
        yield Finding("training", length)
    if to_run:
        at_once = place.at_once if isinstance(place, Slurm) else len(place.slots_of(to_run))
        yield from cost_lines.sweep(to_run, throughput, at_once)
    for logged in _distinct(jobs, lambda job: _wandb(job.config, job.group or "")):
        yield Finding("W&B", logged)


def _stage(stage: Stage, is_search: bool) -> Iterator[Finding]:
    """The lines for a stage: the number of its jobs by state, and the first jobs."""
    about = "first trials" if is_search else "jobs"
    if is_tuning := stage.jobs[0].directory.parent.name == TUNING:
        about = "tuning"
    if stage.is_open:
        number = counted(len(stage.jobs), "job")
        yield Finding("then", f"{number}, with the settings that the tuning chooses")
        return
    to_run = {job.directory for job in stage.to_run}
    states = {job.directory: _state(stage, job, job.directory in to_run) for job in stage.jobs}
    counts = Counter(states.values())
    parts = (f"{number} {state}" for state, number in counts.items())
    yield Finding(about, f"{len(stage.jobs)}: {', '.join(parts)}")
    for job in stage.jobs[:LISTED]:
        path = job.directory.relative_to(job.directory.parents[is_tuning])
        yield Finding("", f"{states[job.directory]:<9} {job.name or 'no overrides'}  in {path}")
    if (more := len(stage.jobs) - LISTED) > 0:
        yield Finding("", f"and {more} more")
    first = stage.jobs[0]
    shared = [each for each in first.overrides if f",{each}," not in f",{first.name},"]
    if shared:
        yield Finding("all with", " ".join(shared))


def _state(stage: Stage, job: RunSpec, runs: bool) -> str:
    state = stage.statuses[job.directory].state
    if runs:
        return {"waiting": "new", "preempted": "resumes", "running": "running"}.get(state, "again")
    return str(state)


def _here(place: Resources, launcher: str, jobs: Sequence[RunSpec]) -> Iterator[Finding]:
    """The lines for jobs that run on this machine."""
    slots = place.slots_of(jobs)
    threads = place.threads_of_each(len(slots))
    at_once = min(len(slots), len(jobs))
    yield Finding("launcher", f"{launcher}: on this machine, {at_once} at a time")
    each = list(_distinct(jobs, lambda job: Processes.of(job.config, threads)))
    for one in each:
        yield Finding("each job", str(one))
    yield _total(max(each, key=lambda one: one.number), at_once)
    gpus = sorted({slot for slot in slots if slot is not None})
    if gpus:
        yield Finding("", f"GPUs of each: {'; '.join(gpus)}")
    limit, retries = place.time_limit, place.retries
    minutes = "none" if limit is None else f"{limit:g} minutes"
    yield Finding("time limit", minutes + (f"; retries: {retries}" if retries else ""))


def _total(each: Processes, at_once: int) -> Finding:
    """The resources of simultaneous jobs; marked if they need more cores than there are."""
    words, available = f"{each.total(at_once)} at a time", cores()
    needed = each.number * (each.threads or 1)
    if each.on_gpus or at_once * needed <= available:
        return Finding("in total", words)
    remedy = f"hydra.launcher.parallel={max(1, available // needed)}"
    return Finding("in total", f"{words}; only {available} available: use {remedy}", LIMITED)


def _on_slurm(place: Slurm, launcher: str, jobs: Sequence[RunSpec]) -> Iterator[Finding]:
    """The lines for jobs that run on SLURM."""
    arrays = len(place.requests(jobs, longest_array()))
    queued = in_queue([job.directory for job in jobs])
    at_once = len(jobs) if place.at_once is None else min(place.at_once * arrays, len(jobs))
    limit = "any number" if place.at_once is None else at_once
    yield Finding("launcher", f"{launcher}: {counted(arrays, 'job array')}, {limit} at a time")
    if queued:
        yield Finding("", f"{len(queued)} of the jobs are in the queue already and stay there")
    largest = None
    for request, alike in place.requests(jobs):
        threads, devices = request.get("cpus_per_task"), request["ntasks_per_node"]
        on_gpus = bool(request.get("gpus_per_node"))
        each = Processes.of(alike[0].config, threads and threads * devices, on_gpus)
        yield Finding("each job", str(each))
        options = (f"--{name.replace('_', '-')}={value}" for name, value in request.items())
        yield Finding("sbatch", " ".join(options))
        if largest is None or each.number > largest.number:
            largest = each
    assert largest is not None
    yield Finding("in total", f"up to {largest.total(at_once)} at a time")
    minutes = "the partition's" if place.time is None else counted(place.time, "minute")
    then = "is requeued" if place.requeue else "ends (hydra.launcher.requeue=false)"
    yield Finding("time limit", f"{minutes}; a run saves {place.signal} s before it and {then}")
    if not place.wait:
        yield Finding("this command", "submits the jobs and returns")


def _by_length(jobs: Sequence[RunSpec]) -> Iterable[RunSpec]:
    """One job for each length of training, which seeds do not change."""

    def key(job: RunSpec) -> str:
        data = {**job.config.record["data"], "seed": None}
        lengths = [data, job.config.record["trainer"], job.config.record["callbacks"]]
        return json.dumps(lengths, sort_keys=True, default=str)

    return {key(job): job for job in jobs}.values()


def _training_length(job: RunSpec) -> str:
    """The number of steps and epochs of a job."""
    options: TrainerOptions = job.config.create("trainer")
    processes, accumulated = options.devices * options.num_nodes, options.accumulate_grad_batches
    batches = load_data(job.config).batches_per_epoch(processes, accumulated)
    stops_early = may_stop_early(components(job.config.record, "callbacks").values())
    return options.budget(batches, stops_early)


def _wandb(config: RunConfig, group: str) -> str:
    """Whether and where W&B logs a run."""
    options = wandb_options(config)
    if options is None:
        return "off: logger does not choose wandb"
    mode, why = options.chosen_mode()
    if mode == "disabled":
        return f"off: {why}"
    if mode == "online" and (said := server_problem(server())) is not None:
        mode, why = "offline", said
    entity = f"{entity}/" if (entity := options.chosen("entity")) else ""
    send = "; upload later with `attention-lab sync`" if mode == "offline" else ""
    project = f"{entity}{options.chosen_project()}"
    return f"{mode}: {why}{send}; project {project}, group {options.chosen('group', group)}"


def _distinct(jobs: Iterable[RunSpec], of: Callable[[RunSpec], Any]) -> Iterable[Any]:
    return dict.fromkeys(of(job) for job in jobs)
