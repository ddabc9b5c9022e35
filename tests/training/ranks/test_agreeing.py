"""What processes find out together before they train, and refuse."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig
from attention_lab.tracking.run_directory import RunExists
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.launch import check_devices
from tests.conftest import Compose
from tests.runs import launch
from tests.training.conftest import read_status
from tests.training.ranks.conftest import TWO


def test_mistakes_are_said_once_and_nothing_is_written(
    config: dict[str, Any], two: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunExists, match="holds a run that has finished"):
        launch(config, two, [])
    wrong = config | {"optimizer": {**config["optimizer"], "lr": -1.0}}
    with pytest.raises(ConfigError, match="lr must be above 0"):
        launch(wrong, tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["trainer.devices=8"], "trainer.devices=8: there are 2 CPU cores here"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2: this is one machine; srun, torchrun or"),
        (["trainer.accelerator=gpu"], "there is no GPU here; trainer=cpu works"),
    ],
)
def test_devices_that_are_not_there_are_refused(
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
def test_another_number_of_processes_than_devices_is_refused(
    environment: dict[str, str], tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="want 2 processes, but 3 were started by "):
        check_devices(RunConfig(tiny_digits(*TWO)))
    with pytest.raises(ConfigError, match="want 1 process, but 3 were started by "):
        check_devices(RunConfig(tiny_digits()))


def test_an_error_in_one_process_is_raised_in_all(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from attention_lab.training.distributed import process_group\n"
        "def make():\n"
        "    if os.environ['RANK'] == '1': raise ValueError('one of us')\n"
        "try:\n"
        "    with process_group.initialized(make, 'cpu'):\n"
        "        print('met')\n"
        "except ValueError as error:\n"
        "    print(f'{error}\\n', end='')\n"
    )
    assert torchrun(script).count("one of us") == 2


def test_what_processes_agree_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from attention_lab.training.distributed import process_group\n"
        "with process_group.initialized(lambda: None, 'cpu'):\n"
        "    me = process_group.rank()\n"
        "    found = [process_group.any_rank(me == 1), process_group.any_rank(False)]\n"
        "    found.append(process_group.all_gather(me * 10))\n"
        "    sums = process_group.all_reduce_sum([me, 3], torch.device('cpu')).tolist()\n"
        "    found += [process_group.broadcast(me + 5), sums]\n"
        "    found += [process_group.is_rank_zero() == (me == 0)]\n"
        "print(f'{found} {process_group.is_distributed()}\\n', end='')\n"  # at once, or lines mix
    )
    expected = [True, False, [0, 10], 5, [1, 6], True]
    assert torchrun(script).count(f"{expected} False") == 2


def test_a_signal_before_the_processes_have_met_stops_all(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """One that has heard nothing must not wait in vain for one that has."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, pathlib, signal, sys\n"
        "from attention_lab.config.resolve import RunSpec, resolve\n"
        "from attention_lab.training import run\n"
        "def build(config):\n"
        "    if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGUSR2)\n"
        "    return built(config)\n"
        "built, run.build = run.build, build\n"
        "try:\n"
        "    spec = RunSpec(resolve(json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]))\n"
        "    done = run.train(spec)\n"
        "except SystemExit as error:\n"
        "    done = f'{error}, {error.code}'\n"
        "print(f'{done}\\n', end='')\n"
    )
    said = torchrun(script, json.dumps(config), tmp_path / "run")
    assert sorted(said.split("\n")) == ["", "None", "SIGUSR2, 1"]
    assert not (tmp_path / "run").exists()


def test_a_refusal_is_said_though_others_are_sooner(tmp_path: Path) -> None:
    """They would be taken for the cause, and the first ended before it has said anything."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "from attention_lab.cli import main\n"
        "time.sleep(2 if os.environ['RANK'] == '0' else 0)\n"
        "sys.exit(main(['train', 'data=digits', 'trainer=ddp_cpu', 'trainer.devices=3']))\n"
    )
    with pytest.raises(subprocess.CalledProcessError) as refused:
        torchrun(script)
    assert refused.value.stderr.count("want 3 processes, but 2 were started by torchrun") == 1


def torchrun(*arguments: object) -> str:
    """What two processes print that torchrun starts."""
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


def test_one_process_waits_for_nobody() -> None:
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
    said = torchrun(
        *("-m", "attention_lab", "train", "data=digits", "trainer=ddp_cpu", "logger=csv"),
        *("trainer.max_steps=2", "model.d_model=16"),
    )
    (found,) = (tmp_path / "outputs").glob("*/*")
    assert read_status(found)["status"] == "finished"
    assert said.count(found.name) > 0
    assert said.count("test/accuracy  ") == 1
