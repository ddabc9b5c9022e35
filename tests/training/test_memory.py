"""Sizes that do not fit into memory are refused before they are allocated."""

from pathlib import Path

import pytest

from attention_lab import memory
from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.memory import GIB, NO_MACHINE, TooLarge, check_fits, machine_memory
from attention_lab.sweeps.jobs import build_jobs
from tests.conftest import Compose
from tests.runs import build

SMALL = ("data=copy", "data.examples=64", "data.evaluation_examples=32", "model.d_model=16")


def test_the_memory_of_this_machine_is_known() -> None:
    assert 0 < machine_memory() < NO_MACHINE


def test_the_limit_of_a_control_group_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_cgroup_limits", lambda: iter([GIB, 2 * GIB]))
    assert machine_memory() == GIB


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.d_model=1000000000", "model: its parameters and their gradients need more than"),
        ("model.num_encoder_layers=1000000000", "model: its parameters and their gradients need"),
        ("data.examples=1000000000000", "data.examples=1000000000000 needs more than 65,536 GiB"),
        ("data.evaluation_examples=1000000000", "data.evaluation_examples=1000000000 needs"),
        ("task.num_beams=1000000000", "task.num_beams=1000000000 needs"),
        ("data.lengths=[1,1000000000]", "the config needs more memory than this machine has"),
        (f"model.d_model={10**20}", "model.d_model: must be below 2⁶³, got a number of about 20"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(override: str, problem: str, compose: Compose) -> None:
    with pytest.raises(ConfigError) as caught:
        build(compose(*SMALL, "trainer=cpu", override))
    assert str(caught.value).startswith(problem)


def test_activations_that_do_not_fit_are_refused_before_the_layers_are_created(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: GIB)
    config = compose(*SMALL, "trainer=cpu", "model.num_encoder_layers=20000")
    with pytest.raises(ConfigError, match="model: the activations of its 20,002 layers need"):
        build(config)


def test_a_login_node_refuses_only_what_no_machine_can_hold(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 1000)
    job = RunSpec(RunConfig(compose(*SMALL)), tmp_path)
    build_jobs([job], run_here=False)
    with pytest.raises(ConfigError, match=r"and this machine has 0\.0 GiB"):
        build_jobs([job])
    huge = RunSpec(RunConfig(compose(*SMALL, "data.examples=1000000000000000")), tmp_path)
    with pytest.raises(ConfigError, match="needs more than"):
        build_jobs([huge], run_here=False)


def test_what_fits_is_accepted() -> None:
    check_fits("x needs", 10, available=10)
    with pytest.raises(TooLarge, match=r"x needs 3 GiB of memory, and this machine has 2\.0 GiB"):
        check_fits("x needs", 3 * GIB, available=2 * GIB)
