"""The lines of `attention-lab train … --dry-run` about costs: FLOPs, memory, tokens and time."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from attention_lab.cli.doctor_checks import LIMITED, Finding
from attention_lab.cli.throughput import Throughput
from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.memory import machine_memory
from attention_lab.quantities import format_duration, format_quantity
from attention_lab.training.build import BuiltRun, build, device_type, load_data
from attention_lab.training.estimate import Estimate, estimate

#: The largest number of configs of a sweep that are estimated, since each takes a second.
ESTIMATED = 10


def single_run(run: BuiltRun, throughput: Throughput | None) -> Iterator[Finding]:
    """The lines for a single run."""
    try:
        cost = estimate(run)
    except Exception as error:  # the model may be a user's
        yield Finding("costs", _unknown(error))
        return
    options = run.trainer_options
    yield Finding("parameters", f"{cost.parameters:,}")
    yield Finding("tokens", f"{format_quantity(cost.tokens)}, without padding")
    per_step = format_quantity(cost.flops / cost.steps, "FLOPs")
    yield Finding("compute", f"{format_quantity(cost.flops, 'FLOPs')}, {per_step} a step")
    needed, available = options.devices * cost.memory.total, machine_memory()
    is_too_large = device_type(options) == "cpu" and needed > available
    limit = f"; only {format_quantity(available, 'B')} available" if is_too_large else ""
    in_each = "" if options.devices == options.num_nodes == 1 else " in each process"
    marks = [LIMITED] if is_too_large else []
    yield Finding("memory", f"about {cost.memory.describe(in_each)}{limit}", *marks)
    if cost.traffic:
        yield Finding("traffic", f"each process sends {format_quantity(cost.traffic, 'B')} a step")
    yield Finding("time", _time(cost.tokens, throughput))


def sweep(
    jobs: Sequence[RunSpec], throughput: Throughput | None, at_once: int | None
) -> Iterator[Finding]:
    """The lines for the jobs of a sweep.

    Args:
        jobs: the jobs that will run.
        throughput: of each job.
        at_once: how many run at a time; None means that it is unknown.
    """
    kinds: dict[str, list[RunSpec]] = {}
    for job in jobs:
        kinds.setdefault(_costs_of(job.config), []).append(job)
    groups = list(kinds.values())
    if len(groups) > ESTIMATED:
        groups = [groups[i * len(groups) // ESTIMATED] for i in range(ESTIMATED)]
    try:
        costs = [(_estimate(group[0].config), len(group)) for group in groups]
    except Exception as error:  # the model may be a user's
        yield Finding("costs", _unknown(error))
        return
    covered = sum(number for _, number in costs)
    scale = len(jobs) / covered
    about = f", estimated from {covered} of {len(jobs)} jobs" if covered < len(jobs) else ""
    yield from _sums(costs, scale, about)
    tokens = scale * sum(cost.tokens * number for cost, number in costs)
    yield Finding("time", _time(tokens, throughput, min(at_once or 1, len(jobs))))


def _sums(costs: Sequence[tuple[Estimate, int]], scale: float, about: str) -> Iterator[Finding]:
    """The lines for the costs of all jobs together, and for the largest."""
    parameters = sorted({cost.parameters for cost, _ in costs})
    several = f" to {parameters[-1]:,}" if len(parameters) > 1 else ""
    yield Finding("parameters", f"{parameters[0]:,}{several}")
    tokens, flops = (
        scale * sum(getattr(cost, name) * number for cost, number in costs)
        for name in ("tokens", "flops")
    )
    yield Finding("tokens", f"{format_quantity(tokens)} in all, without padding{about}")
    yield Finding("compute", f"{format_quantity(flops, 'FLOPs')} in all")
    largest = max((cost.memory for cost, _ in costs), key=lambda memory: memory.total)
    yield Finding("memory", f"up to about {largest.describe(' in each process')}")


def _estimate(config: RunConfig) -> Estimate:
    return estimate(build(config, load_data(config)))


def _costs_of(config: RunConfig) -> str:
    """The part of a config that costs depend on.

    Of the numbers of an optimizer, it only matters whether they are 0, as a momentum may be.
    """

    def simplified(key: str, value: Any) -> Any:
        if key == "seed":
            return None
        if isinstance(value, dict):
            return {name: simplified(name, inner) for name, inner in value.items()}
        return value

    record = {key: simplified(key, value) for key, value in config.record.items()}
    optimizer = {
        key: bool(value) if isinstance(value, float) else value
        for key, value in record["optimizer"].items()
    }
    kept = ("model", "data", "task", "trainer", "parameter_groups", "callbacks")
    parts = [optimizer, *(record.get(name) for name in kept)]
    return json.dumps(parts, sort_keys=True, default=str)


def _time(tokens: float, throughput: Throughput | None, at_once: int = 1) -> str:
    """The time of training, from a number of tokens per second."""
    if throughput is None:
        return "unknown: add --tokens-per-second N, or --from RUN with a finished run"
    seconds, source = tokens / throughput.tokens_per_second, throughput.source
    parallel = f" ({format_duration(seconds / at_once)} with {at_once} at a time)"
    line = f"about {format_duration(seconds)} of training{parallel if at_once > 1 else ''}"
    speed = format_quantity(throughput.tokens_per_second)
    return f"{line} at {speed} tokens/s{source}, without validation"


def _unknown(error: Exception) -> str:
    if isinstance(error, ConfigError):  # such as a job that is too large for a login node
        return f"unknown: {error}"
    reason = str(error).partition("\n")[0] or type(error).__name__
    return f"unknown: the model cannot run on tensors without values ({reason})"
