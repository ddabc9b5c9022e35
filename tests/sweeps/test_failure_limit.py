"""``sweep.max_failures`` counts the failed and diverged jobs of a whole command."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from attention_lab.config.resolve import RunSpec
from attention_lab.sweeps.sweep import Sweep
from attention_lab.sweeps.watchers import TooManyFailures, Watcher
from attention_lab.tracking.run_status import RunStatus, State
from tests.conftest import Compose

#: Makes a sweep whose jobs end at once, as a function of their overrides says.
MakeSweep = Callable[..., tuple[Sweep, list[str]]]


@pytest.fixture
def make_sweep(tiny_digits: Compose, tmp_path: Path) -> MakeSweep:
    def make(state: Callable[[str], State], **options: object) -> tuple[Sweep, list[str]]:
        started: list[str] = []

        def run(jobs: Sequence[RunSpec], watcher: Watcher) -> None:
            for job in jobs:
                started.append(",".join(job.overrides))
                watcher.ended(job.directory, RunStatus(state(started[-1])))

        def compose(overrides: Sequence[str]) -> dict[str, object]:
            return tiny_digits(*overrides)

        return Sweep(tmp_path, compose, options, run, lambda _: None), started

    return make


def seeds(*numbers: int) -> list[list[str]]:
    return [[f"seed={seed}"] for seed in numbers]


def test_failures_of_earlier_batches_count(make_sweep: MakeSweep) -> None:
    """A search launches its trials in batches."""
    sweep, started = make_sweep(
        lambda job: "finished" if job == "seed=1" else "failed", max_failures=2
    )
    sweep.run(seeds(0, 1), ())
    with pytest.raises(TooManyFailures, match=r"sweep\.max_failures=2: .*seed=2-"):
        sweep.run(seeds(2, 3), ())
    assert started == ["seed=0", "seed=1", "seed=2"]


def test_other_ends_than_failures_do_not_count(make_sweep: MakeSweep) -> None:
    ends: dict[str, State] = {"seed=0": "finished", "seed=1": "preempted"}
    sweep, started = make_sweep(lambda job: ends[job], max_failures=1)
    sweep.run(seeds(0, 1), ())
    assert len(started) == 2


def test_a_tuning_run_that_diverges_counts(make_sweep: MakeSweep) -> None:
    def state(job: str) -> State:
        return "diverged" if "optimizer.lr=0.1" in job else "finished"

    tuning = {"tune": "lr", "grid": [0.01, 0.1], "seeds": [7]}
    sweep, started = make_sweep(state, max_failures=1, **tuning)
    with pytest.raises(TooManyFailures):
        sweep.run(seeds(0, 1), ())
    assert started == ["optimizer.lr=0.01,seed=7", "optimizer.lr=0.1,seed=7"]
