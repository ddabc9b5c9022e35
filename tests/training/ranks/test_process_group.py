"""Devices, collective operations, and errors and signals before ranks train."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.tracking.run_config import resolve
from attention_lab.tracking.run_directory import RunExists
from attention_lab.training import run
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.launch import check_devices
from attention_lab.training.distributed.launch import launch as launch_run
from tests.conftest import Compose
from tests.runs import launch, spec
from tests.training.conftest import read_status
from tests.training.ranks.conftest import TWO


def test_a_warning_of_two_ranks_is_printed_once_in_one_line(
    compose: Compose, tmp_path: Path
) -> None:
    header = "text\tlabel\n" + "".join(f"a {i}\tx\nb {i}\ty\n" for i in range(40))
    (tmp_path / "labels.tsv").write_text(header)
    data = ("data=labels", f"data.train={tmp_path / 'labels.tsv'}", "logger=csv")
    model = ("model=encoder_classifier", "model.d_model=16", "trainer.max_steps=1")
    log = tmp_path / "log.txt"
    launch_run(spec(compose(*data, *model, *TWO), tmp_path / "run"), log)
    warned = [line for line in log.read_text().splitlines() if "header" in line]
    assert warned == [
        f"attention-lab: {tmp_path / 'labels.tsv'}, line 1 looks like a header, but is read as an "
        "example; remove it"
    ]


def test_invalid_configs_are_reported_once_and_nothing_is_written(
    config: dict[str, Any], two: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunExists, match="holds a run that has finished"):
        launch(config, two, [])
    wrong = config | {"optimizer": {**config["optimizer"], "lr": -1.0}}
    with pytest.raises(ConfigError, match="Invalid learning rate"):
        launch(wrong, tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["trainer.devices=8"], "trainer.devices=8: only 2 CPU cores available; use trainer"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2: .* one machine only; use srun, torchrun"),
        (["trainer.accelerator=gpu"], "no GPU is available; use trainer=cpu"),
    ],
)
def test_unavailable_devices_are_refused(
    options: list[str], message: str, tiny_digits: Compose
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_devices(RunConfig(tiny_digits(*TWO, *options)))


@pytest.mark.parametrize(
    "environment",
    [
        {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "3",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500",
        },
        {
            "SLURM_STEP_NUM_TASKS": "3",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
        },
    ],
)
def test_a_world_size_that_differs_from_the_devices_is_refused(
    environment: dict[str, str], tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="need 2 processes, but 3 were started by "):
        check_devices(RunConfig(tiny_digits(*TWO)))
    with pytest.raises(ConfigError, match="need 1 process, but 3 were started by "):
        check_devices(RunConfig(tiny_digits()))


def on_rank(
    rank: int, port: int, answer: Connection, act: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    """Send the return value of a function that runs as a rank of torchrun; for a new process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    answer.send(act(*arguments))


def on_two_ranks(act: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The return values of a function on two ranks.

    They are forked: torchrun would import everything three times.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attention_lab.training.run"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = []
    for rank in range(2):
        answer, sender = context.Pipe(duplex=False)
        context.Process(target=on_rank, args=(rank, port, sender, act, arguments)).start()
        sender.close()
        answers.append(answer)
    assert all(answer.poll(120) for answer in answers)
    return [answer.recv() for answer in answers]


def meet_unless_rank_1_fails() -> str:
    def make() -> None:
        if os.environ["RANK"] == "1":
            raise ValueError("one of us")

    try:
        with process_group.initialized(make, "cpu"):
            return "met"
    except ValueError as error:
        return str(error)


def test_an_error_on_one_rank_is_raised_on_all() -> None:
    assert all("one of us" in output for output in on_two_ranks(meet_unless_rank_1_fails))


def agree() -> tuple[list[Any], bool]:
    with process_group.initialized(lambda: None, "cpu"):
        me = process_group.rank()
        found: list[Any] = [process_group.any_rank(me == 1), process_group.any_rank(False)]
        found.append(process_group.all_gather(me * 10))
        sums = process_group.all_reduce_sum([me, 3], torch.device("cpu")).tolist()
        found += [process_group.broadcast(me + 5), sums]
        found += [process_group.is_rank_zero() == (me == 0)]
    return found, process_group.is_distributed()


def test_collective_operations_of_two_ranks() -> None:
    expected = [True, False, [0, 10], 5, [1, 6], True]
    assert on_two_ranks(agree) == [(expected, False)] * 2


def train_with_a_signal_to_rank_1(config: dict[str, Any], directory: Path) -> str:
    def build(config: RunConfig) -> Any:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGUSR2)
        return built(config)

    built = run.build
    run.build = build
    try:
        return str(run.train(RunSpec(resolve(config), directory)))
    except SystemExit as error:
        return f"{error}, {error.code}"


def test_a_signal_before_the_process_group_is_initialized_stops_all_ranks(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """A rank without a signal must not wait for one that has stopped."""
    output = on_two_ranks(train_with_a_signal_to_rank_1, config, tmp_path / "run")
    assert sorted(output) == ["None", "SIGUSR2, 1"]
    assert not (tmp_path / "run").exists()


def train_with_another_seed_on_rank_1(config: dict[str, Any], directory: Path) -> str:
    try:
        own = {**config, "seed": int(os.environ["RANK"])}
        return str(run.train(RunSpec(resolve(own), directory)))
    except ConfigError as error:
        return str(error)


def test_ranks_with_different_configs_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    """Such as those that find other content in a file of the same name."""
    output = on_two_ranks(train_with_another_seed_on_rank_1, config, tmp_path / "run")
    assert all("the ranks have different configs: data files differ" in it for it in output)
    assert not (tmp_path / "run").exists()


def test_rank_zero_prints_an_error_that_other_ranks_raise_earlier(tmp_path: Path) -> None:
    """Otherwise torchrun would kill rank 0 before it has printed the message."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "from attention_lab.cli import main\n"
        "time.sleep(2 if os.environ['RANK'] == '0' else 0)\n"
        "sys.exit(main(['train', 'data=digits', 'trainer=ddp_cpu', 'trainer.devices=3']))\n"
    )
    with pytest.raises(subprocess.CalledProcessError) as refused:
        torchrun(script)
    assert refused.value.stderr.count("need 3 processes, but 2 were started by torchrun") == 1


def torchrun(*arguments: object) -> str:
    """The output of two processes started by torchrun."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--standalone", "--local-addr", "127.0.0.1", *map(str, arguments)),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def test_collective_operations_of_a_single_process() -> None:
    assert process_group.all_gather(7) == [7]
    assert process_group.broadcast(7) == 7
    assert process_group.any_rank(True)
    assert not process_group.any_rank(False)
    assert process_group.on_every_rank(lambda: 7) == 7
    assert process_group.all_reduce_sum([1, torch.tensor(2)], torch.device("cpu")).tolist() == [
        1,
        2,
    ]


def test_torchrun_trains_one_run(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = torchrun(
        *("-m", "attention_lab", "train", "data=digits", "trainer=ddp_cpu", "logger=csv"),
        *("trainer.max_steps=2", "model.d_model=16"),
    )
    (found,) = (tmp_path / "outputs").glob("*/*")
    assert read_status(found)["status"] == "finished"
    assert output.count(found.name) > 0
    assert output.count("test/accuracy  ") == 1
