"""The requests of a sweep, and invalid commands; most tests need no cluster."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.sweeps.plugin_options import plugin_options
from attention_lab.sweeps.slurm_executor import Slurm, no_ctrl_c
from tests.cli.conftest import Command, command  # noqa: F401
from tests.slurm.conftest import SWEEP, TINY


def job(**trainer: Any) -> RunSpec:
    """A job that is not run."""
    config = RunConfig({"trainer": {"accelerator": "cpu", **trainer}})
    return RunSpec(config, Path("a"), group="sweep", differing=["a"])


def request(slurm: Slurm, **trainer: Any) -> dict[str, Any]:
    """The request for one job."""
    ((wanted, _),) = slurm.requests([job(**trainer)])
    return wanted


def test_nodes_tasks_and_gpus_follow_from_the_trainer() -> None:
    assert request(Slurm()) == {"nodes": 1, "ntasks_per_node": 1}
    assert request(Slurm(), accelerator="gpu", devices=8, num_nodes=2) == {
        "nodes": 2,
        "ntasks_per_node": 8,
        "gpus_per_node": 8,
    }
    assert request(Slurm(), devices=4) == {"nodes": 1, "ntasks_per_node": 4}
    assert request(Slurm(gpus=2), accelerator="auto")["gpus_per_node"] == 2
    assert "gpus_per_node" not in request(Slurm(gpus=0), accelerator="auto")


def test_options_have_the_names_of_sbatch() -> None:
    assert request(Slurm(memory=16))["mem"] == "16384M"
    slurm = Slurm(partition="long", qos="high", time=90, memory=1.5, cpus_per_task=4)
    assert request(slurm) == {
        "partition": "long",
        "qos": "high",
        "time": 90,
        "mem": "1536M",
        "cpus_per_task": 4,
        "nodes": 1,
        "ntasks_per_node": 1,
    }


def test_jobs_with_the_same_request_are_one_array() -> None:
    jobs = [job(), job(devices=2), job()]
    found = Slurm().requests(jobs)
    assert [[jobs.index(each) for each in alike] for _, alike in found] == [[0, 0], [1]]
    assert [wanted["ntasks_per_node"] for wanted, _ in found] == [1, 2]


def test_more_jobs_than_the_longest_array_are_several_arrays(login: Command) -> None:
    found = Slurm().requests([job(), job(), job(devices=2), job()], at_most=2)
    assert [len(alike) for _, alike in found] == [2, 1, 1]
    answer = login(
        "train", *SWEEP, "seed=range(5)", "--dry-run"
    )  # which asks sbatch; the cluster takes 4
    assert answer.code == 0, answer.err
    assert "2 job arrays" in answer.out


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        ({"time": 0.5}, {}, "hydra.launcher.time: input should be a valid integer; got 0.5"),
        ({"at_once": 0}, {}, "hydra.launcher.at_once: input should be greater than 0; got 0"),
        ({"signal": None}, {}, "hydra.launcher.signal: input should be a valid integer"),
        ({"memory": "16G"}, {}, "hydra.launcher.memory: input should be a valid number; got '16G'"),
        ({"wait": "no"}, {}, "hydra.launcher.wait: input should be a valid boolean"),
        ({"extra": {"nodes": 4}}, {}, "hydra.launcher.extra.nodes: comes from trainer.num_nodes"),
        ({"extra": {"ntasks_per_node": 4}}, {}, "ntasks_per_node: comes from trainer.devices"),
        (
            {"setup": "module load cuda"},
            {},
            "hydra.launcher.setup: input should be a valid list",
        ),
        (
            {"time": 1},
            {},
            "hydra.launcher.signal=60 (seconds): must be less than",
        ),
        (
            {"partitoin": "long"},
            {},
            "hydra.launcher.partitoin: unknown option; did you mean partition",
        ),
        ({}, {"accelerator": "auto"}, "trainer.accelerator=auto: cannot infer the GPUs"),
        ({"gpus": 2}, {"accelerator": "gpu", "devices": 4}, "gpus=2: trainer.devices=4 GPUs"),
    ],
)
def test_invalid_requests_are_refused(
    options: dict[str, Any], trainer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        request(plugin_options(Slurm, options), **trainer)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ctrl_c_waits_until_submitted_jobs_are_recorded() -> None:
    """Also if another thread of the process receives it."""
    over, noted = threading.Event(), []
    threading.Thread(target=over.wait).start()

    def submit() -> None:
        with no_ctrl_c():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            noted.append("all")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            submit()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
    assert noted == ["all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m",), "hydra/launcher=slurm: there is no sbatch here"),
        ((), "hydra/launcher=slurm: add -m"),
        (
            ("-m", "hydra.launcher.gpus_per_job=2"),
            "hydra.launcher.gpus_per_job: hydra/launcher=slurm has no such key; "
            "hydra/launcher=isolated has it",
        ),
        (("-m", "hydra.launcher.partiton=a"), "has no such key; did you mean partition?"),
    ],
)
def test_an_invalid_command_leaves_nothing_behind(
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = command("train", *TINY, "hydra/launcher=slurm", *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("hydra.launcher.partition=nowhere",), "invalid partition specified: nowhere"),
        (("trainer.num_nodes=3",), "Requested node configuration is not available"),
        (("hydra.launcher.extra={bogus: 1}",), "unrecognized option '--bogus=1'"),
        (("sweep.tune=lr", "hydra.launcher.wait=false"), "sweep.tune needs results"),
    ],
)
def test_refusals_of_slurm_are_shown_in_its_own_words(
    login: Command, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    answer = login("train", *SWEEP, *overrides)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()
