"""Times of calls that take turns, and the peak memory of a call."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]


class Timing(NamedTuple):
    """The median and the quartiles of a call's time, in seconds."""

    median: float
    low: float
    high: float


def spread(seconds: list[float]) -> Timing:
    """Median and quartiles; of a single time, this time."""
    if len(seconds) == 1:
        return Timing(*seconds * 3)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high)


def seconds_of(call: Call, device: str) -> float:
    """The time of one call, until the device has finished it."""
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def interleaved(calls: Mapping[str, Call], repeat: int, device: str) -> dict[str, Timing]:
    """The times of calls that take turns ``repeat`` times, so that a change of speed hits all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            times[name].append(seconds_of(call, device))
    return {name: spread(each) for name, each in times.items()}


def synchronize(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(call: Call, device: str) -> int:
    """The most bytes that torch's allocator holds during a call, beyond those before it.

    On the CPU the profiler records each allocation; memory that a library takes elsewhere, such as
    oneDNN's scratch space, is not counted.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results: Any = profiler.profiler
    events = [it for it in results.kineto_results.events() if it.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda it: it.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
