"""Tuning: by validation alone, and with the same grid for every group."""

import json
from pathlib import Path

import pytest

from attention_lab.config.components import ConfigError
from attention_lab.sweeps.sweep_options import SweepOptions
from attention_lab.sweeps.tuning import choose, groups_of, trials, tuned
from attention_lab.tracking.record_files import with_version
from attention_lab.tracking.run_status import RunStatus, read_status

OPTIONS = SweepOptions(retry=(), tune="optimizer.lr", grid=("0.1", "0.2", "0.3"), seeds=(7, 8))
GROUP = ["attention=additive"]


def finished(value: float, mode: str = "min") -> RunStatus:
    return RunStatus("finished", value=value, monitor="loss", mode=mode)


def test_every_group_is_tried_with_the_whole_grid_and_every_tuning_seed() -> None:
    jobs = [[f"attention={name}", f"seed={seed}"] for name in ("a", "b") for seed in (0, 1)]
    assert groups_of(jobs, OPTIONS) == [["attention=a"], ["attention=b"]]
    assert trials(["attention=a"], OPTIONS) == [
        ["attention=a", f"optimizer.lr={lr}", f"seed={seed}"]
        for lr in (0.1, 0.2, 0.3)
        for seed in (7, 8)
    ]


@pytest.mark.parametrize(("mode", "best"), [("min", "0.2"), ("max", "0.3")])
def test_the_best_mean_over_the_tuning_seeds_is_chosen(mode: str, best: str) -> None:
    scores = [3.0, 1.0, 1.5, 1.5, 0.0, 9.0]  # means 2, 1.5 and 4.5
    choice = choose(GROUP, [finished(score, mode) for score in scores], OPTIONS)
    assert choice.value == best
    assert choice.scores == {"0.1": 2.0, "0.2": 1.5, "0.3": 4.5}


def test_a_value_with_a_failed_run_cannot_be_chosen() -> None:
    found = [finished(s) for s in (3.0, 1.0, 0.1, 0.1, 2.0, 2.0)]
    found[3] = RunStatus("diverged", "the loss is nan")
    choice = choose(GROUP, found, OPTIONS)
    assert choice.value == "0.1"
    assert choice.scores["0.2"] is None


def test_values_are_chosen_by_validation(tmp_path: Path) -> None:
    """Test metrics do not matter: the best value by validation has the worst ones."""
    found = []
    for name, validation in (("a", 0.3), ("b", 0.1), ("c", 0.2)):
        for seed in ("7", "8"):
            run = tmp_path / (name + seed)
            run.mkdir()
            result = {"monitor": "loss", "mode": "min", "validation": {"loss": validation}}
            (run / "result.json").write_text(
                json.dumps(with_version(result | {"test": {"loss": -validation}}))
            )
            (run / "status.json").write_text(json.dumps(with_version({"status": "finished"})))
            found.append(read_status(run))
    assert [each.value for each in found] == [0.3, 0.3, 0.1, 0.1, 0.2, 0.2]
    assert choose(GROUP, found, OPTIONS).value == "0.2"


def test_jobs_run_with_the_value_chosen_for_their_group() -> None:
    choices = [
        choose([f"attention={name}"], [finished(s) for s in scores], OPTIONS)
        for name, scores in (("a", [1, 1, 2, 2, 3, 3]), ("b", [3, 3, 2, 2, 1, 1]))
    ]
    job = ["attention=b", "seed=4"]
    assert tuned(job, choices, OPTIONS) == ["attention=b", "seed=4", "optimizer.lr=0.3"]
    assert tuned(["attention=a", "seed=4"], choices, OPTIONS)[-1] == "optimizer.lr=0.1"


def test_a_group_without_a_working_value_is_named() -> None:
    choice = choose(GROUP, [RunStatus("failed")] * 6, OPTIONS)
    assert choice.value is None
    with pytest.raises(ConfigError, match=r"attention=additive: each of optimizer.lr=0.1, "):
        tuned([*GROUP, "seed=0"], [choice], OPTIONS)


def test_a_tuned_key_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.lr=1: sweep.tune sets optimizer.lr"):
        groups_of([["attention=a", "optimizer.lr=1"]], OPTIONS)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"retry": "faild"}, "sweep.retry=faild: .*did you mean failed"),
        ({"retry": ["failed", "finished"]}, "sweep.retry=finished"),
        ({"tune": "lr", "grid": [0.1]}, "sweep.grid: needs at least two values"),
        ({"tune": "lr", "grid": [0.1, 0.1]}, "sweep.grid"),
        (
            {"tune": "lr", "grid": [[1], [2]]},
            r"sweep.grid: must be a list of plain values",
        ),
        ({"grid": [1, 2]}, "sweep.grid: needs sweep.tune"),
        ({"keep": "bets"}, "sweep.keep=bets: must be all, best or none; did you mean best?"),
        ({"max_failures": 0}, "sweep.max_failures: must be a whole number from 1, got 0"),
        ({"seeds": [1]}, "sweep.seeds: needs sweep.tune"),
        ({"tune": "lr", "seeds": ["x"]}, "sweep.seeds"),
    ],
)
def test_invalid_options_are_refused(section: dict, says: str) -> None:
    section = {"retry": [], "tune": None, "grid": None, "seeds": None} | section
    with pytest.raises(ConfigError, match=says):
        SweepOptions.of(section)


def test_options_are_read_as_they_are_typed() -> None:
    section = {"retry": "failed", "tune": "lr", "grid": [1, None, True, "x"], "seeds": 3}
    grid = ("1", "null", "true", "x")
    assert SweepOptions.of(section) == SweepOptions(("failed",), "optimizer.lr", grid, (3,))
    section |= {"grid": None, "seeds": None}
    assert SweepOptions.of(section).grid == ("0.0001", "0.0003", "0.001", "0.003")
    assert SweepOptions.of(section).seeds == (1000,)
