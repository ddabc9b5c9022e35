"""Several processes that train one run: the result of one, and what becomes of it if one fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.recording.lock import is_held
from attention_lab.recording.run_directory import RunExists
from attention_lab.training import ranks
from attention_lab.training.finished import evaluate, restored
from attention_lab.training.launch import check_devices, launch
from attention_lab.training.nodes import ConfigError
from attention_lab.training.objective import Diverged
from tests.conftest import Compose
from tests.training.conftest import assert_identical, read_status, result, rows

TWO = ("trainer=ddp_cpu", "trainer.devices=2")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the tests train on, wherever they run."""
    monkeypatch.setattr("attention_lab.training.launch.cores", lambda: 2)


def losses(directory: Path) -> list[float]:
    """The training loss of each step."""
    return [float(row["train/loss"]) for row in rows(directory) if row["train/loss"]]


@pytest.mark.parametrize(
    ("data", "metric", "strategies"),
    [
        ("data=digits", "accuracy", ["ddp", "fsdp"]),
        # Of different lengths: a mean over processes would not be one over tokens.
        ("data=reverse data.examples=300", "token_error_rate", ["ddp", "fsdp"]),
        ("data=recall data.examples=300 model.layers=1", "accuracy", ["ddp"]),
    ],
)
def test_two_processes_train_as_one_with_the_same_batches(
    data: str, metric: str, strategies: list[str], compose: Compose, tmp_path: Path
) -> None:
    common = [
        *(*data.split(), "model.width=16", "model.dropout=0", "optimizer.lr=0.01"),
        *("trainer.max_steps=50", "trainer.log_every=1", "trainer.max_epochs=100", "logger=csv"),
        "trainer.validate_every=5",
    ]
    alone = ("trainer=cpu", "data.batch_size=62", f"trainer.strategy={strategies[-1]}")
    launch(compose(*common, *alone), tmp_path / "one", [])
    one, theirs = losses(tmp_path / "one"), result(tmp_path / "one")
    assert len(one) == theirs["steps"] == 50
    assert len(set(one)) > 40
    for strategy in strategies:
        together = (*TWO, "data.batch_size=31", f"trainer.strategy={strategy}")
        launch(compose(*common, *together), tmp_path / strategy, [])
        two, ours = losses(tmp_path / strategy), result(tmp_path / strategy)
        assert len(two) == ours["steps"] == 50, strategy
        # Adam makes much of small differences, so they are the smaller the earlier.
        assert two[:10] == pytest.approx(one[:10], rel=2e-6), strategy
        assert two == pytest.approx(one, rel=1e-4), strategy
        of_all, of_one = ours["validation"][metric], theirs["validation"][metric]
        assert of_all == pytest.approx(of_one, abs=1e-2), strategy


def test_speed_counts_the_tokens_of_all_processes(two: Path, one: Path) -> None:
    def tokens(directory: Path) -> int:
        path = directory / "checkpoints" / "last.ckpt"
        found: int = torch.load(path, weights_only=True)["tokens"]
        return found

    assert tokens(two) == tokens(one) > 0


#: 5 epochs of 9 steps on 2 processes, with dropout, validated in mid-epoch.
OPTIONS = (
    *("attention.dropout=0.2", "data.batch_size=70", "trainer.validate_every=0.4"),
    "trainer.max_epochs=5",
)


@pytest.fixture(scope="module")
def config(tiny_digits: Compose) -> dict[str, Any]:
    return tiny_digits(*OPTIONS, *TWO, "trainer.progress=false")


@pytest.fixture(scope="module")
def two(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing interrupts."""
    directory = tmp_path_factory.mktemp("two") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attention_lab.training.launch.cores", lambda: 2)
        launch(config, directory, [])
    return directory


@pytest.fixture(scope="module")
def sharded(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of processes that share the model out."""
    directory = tmp_path_factory.mktemp("sharded") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attention_lab.training.launch.cores", lambda: 2)
        launch(fsdp(config), directory, [])
    return directory


def fsdp(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "trainer": {**config["trainer"], "strategy": "fsdp"}}


@pytest.fixture(scope="module")
def one(tiny_digits: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one process."""
    directory = tmp_path_factory.mktemp("one") / "run"
    launch(tiny_digits(*OPTIONS, "data.batch_size=140"), directory, [])
    return directory


def test_a_run_of_two_processes_is_recorded_as_one(two: Path, one: Path) -> None:
    names = [{path.relative_to(run).name for path in run.rglob("*")} for run in (two, one)]
    assert names[0] == names[1]
    assert read_status(two)["status"] == "finished"
    steps = [[row["step"] for row in rows(run)] for run in (two, one)]
    assert steps[0] == steps[1]


def test_processes_drop_different_units(two: Path) -> None:
    kept = torch.load(two / "checkpoints" / "last.ckpt", weights_only=True)["attention_lab"]
    first, second = kept["random"]
    assert not torch.equal(first["torch"], second["torch"])


def test_metrics_are_of_all_examples(two: Path, config: dict[str, Any]) -> None:
    """What the processes said of validation, each of its part, is what one says of the whole."""
    found = evaluate(restored(two, "last"), "validation")
    said = json.loads((two / "result.json").read_text())["last"]
    assert found.keys() == said.keys()
    for name, value in said.items():
        assert value == pytest.approx(found[name], abs=1e-6), name


#: Launches one run after the other, as it is told; says with which code a command would have ended.
LAUNCHER = """\
import json, pathlib, signal, sys, traceback
from attention_lab.training import launch
exec(pathlib.Path(__file__).with_name("change.py").read_text())
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, lambda *_: None)  # one that comes after a run ends no other
    launch.cores = lambda: 2
    for line in sys.stdin:
        config, directory = json.loads(line)
        code = 0
        try:
            launch.launch(config, pathlib.Path(directory), [])
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = 1
        print(f"ended: {code}", flush=True)
"""


class Launcher:
    """A process that launches runs of two processes, one after the other.

    Args:
        home: an empty directory.
    """

    def __init__(self, home: Path) -> None:
        self._said, self._change, self._before = home / "said", home / "change.py", 0
        self._change.touch()
        script = home / "launcher.py"
        script.write_text(LAUNCHER)
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(script)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def begin(self, config: Mapping[str, Any], directory: Path, change: str = "") -> None:
        """Begin a run, with a change of our code in the processes that are started."""
        self._change.write_text(change)
        self._before = self._said.stat().st_size
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps([config, str(directory)])}\n".encode())
        self.process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        """The code that a command would have ended with, and what was said, of the run begun."""
        wait_until(lambda: self.process.poll() is not None or "ended: " in self._heard())
        said, _, code = self._heard().rpartition("ended: ")
        return int(code), said

    def _heard(self) -> str:
        return self._said.read_bytes()[self._before :].decode()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A launcher of the test's own."""
    launcher = Launcher(tmp_path_factory.mktemp("alone"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """One that tests share, which must not end it: it takes longer to start than a run."""
    launcher = Launcher(tmp_path_factory.mktemp("launcher"))
    yield launcher
    launcher.close()


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of a run, by rank: the fork server starts one after the other."""
    return [pid for server in servers(process) for pid in _below(server, process)]


def servers(process: subprocess.Popen[bytes]) -> list[int]:
    """The fork server of a run, once there is one."""
    return _below(process.pid, process)


def _below(parent: int, process: subprocess.Popen[bytes]) -> list[int]:
    """Those of the fork server's session that a process has started."""
    found = subprocess.run(
        ["pgrep", "-s", str(os.getsid(process.pid)), "-f", "forkserver"],
        capture_output=True,
        text=True,
        check=False,
    )
    return sorted(int(pid) for pid in found.stdout.split() if _parent(int(pid)) == parent)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return -1


def has_checkpoint(directory: Path) -> bool:
    return (directory / "checkpoints" / "last.ckpt").exists()


@pytest.fixture(scope="module")
def long(tiny_digits: Compose) -> dict[str, Any]:
    """The same, for so long that there is time to interrupt it."""
    return tiny_digits(*OPTIONS, *TWO, "trainer.max_epochs=300", "trainer.validate_every=2")


def test_a_run_whose_processes_are_all_killed_goes_on_exactly(
    config: dict[str, Any], two: Path, alone: Launcher, tmp_path: Path
) -> None:
    alone.begin(config, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    alone.process.kill()
    alone.process.wait()
    # The others end with it, and let go of the directory.
    wait_until(lambda: not is_held(tmp_path / "run"))
    launch(config, tmp_path / "run", [])
    assert len(read_status(tmp_path / "run")["resumed"]) == 1
    assert_identical(tmp_path / "run", two)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_that_a_signal_stops_goes_on_exactly(
    strategy: str,
    config: dict[str, Any],
    two: Path,
    sharded: Path,
    launcher: Launcher,
    tmp_path: Path,
) -> None:
    config, whole = (fsdp(config), sharded) if strategy == "fsdp" else (config, two)
    launcher.begin(config, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    launcher.process.send_signal(signal.SIGUSR1)
    code, said = launcher.ended()
    assert code == 1
    status = read_status(tmp_path / "run")
    assert status["status"] == "preempted", said
    assert status["error"].startswith("SIGUSR1: saved at step ")
    assert said.count(f"the same command with hydra.run.dir={tmp_path / 'run'} goes on") == 1
    alone = {**config, "trainer": {**config["trainer"], "devices": 1}}
    with pytest.raises(RunExists, match=r"trainer\.devices is 2 there, 1 here"):
        launch(alone, tmp_path / "run", [])
    launch(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_takes_the_run_with_it_and_is_named(
    rank: int, long: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    launcher.begin(long, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    os.kill(children(launcher.process)[rank], signal.SIGKILL)
    code, said = launcher.ended()
    status = read_status(tmp_path / "run")
    assert status["status"] == "failed"
    assert status["error"].startswith(f"process {rank} of 2: killed by SIGKILL")
    assert code == 1
    assert status["error"] in said


RAISE = """
import os
from attention_lab.training.objective import Objective
step = Objective.training_step
def training_step(self, *arguments):
    if os.environ.get("RANK") == "{rank}" and self.global_step == 3:
        raise RuntimeError("out of luck")
    return step(self, *arguments)
Objective.training_step = training_step
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_what_was_raised_first_is_the_cause(
    rank: int, long: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    """Not that another process has lost it."""
    launcher.begin(long, tmp_path / "run", RAISE.format(rank=rank))
    code, said = launcher.ended()
    status = read_status(tmp_path / "run")
    name = "" if rank == 0 else "process 1 of 2: "
    assert (status["status"], status["error"]) == ("failed", f"{name}RuntimeError: out of luck")
    assert code == 1
    assert status["error"] in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_processes_are_being_started_is_not_lost(
    number: signal.Signals, long: dict[str, Any], alone: Launcher, tmp_path: Path
) -> None:
    alone.begin(long, tmp_path / "run")
    wait_until(lambda: servers(alone.process))
    alone.process.send_signal(number)
    code, _ = alone.ended()
    assert code == 1
    if (tmp_path / "run" / "status.json").exists():
        assert read_status(tmp_path / "run")["status"] == "preempted"


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_to_all_processes_costs_the_run_none_of_them(
    number: signal.Signals, long: dict[str, Any], alone: Launcher, tmp_path: Path
) -> None:
    """As SLURM sends to a step, and a terminal that is closed: to the fork server as well."""
    alone.begin(long, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    for pid in [*servers(alone.process), *children(alone.process), alone.process.pid]:
        os.kill(pid, number)
    code, said = alone.ended()
    assert code == 1
    status = read_status(tmp_path / "run")
    assert status["status"] == "preempted", said
    assert status["error"].startswith(f"{number.name}: saved at step ")


LATE = """
import os, pathlib, time
from attention_lab.training.preemption import Preemption
on_train_end = Preemption.on_train_end
def late(self, trainer, module):
    if os.environ["RANK"] == "0":
        pathlib.Path({end!r}).touch()
        time.sleep(2)
    on_train_end(self, trainer, module)
Preemption.on_train_end = late
"""


def test_a_signal_at_the_end_of_training_stops_all(
    config: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    """The first process has more to do then, and others wait for it."""
    end = tmp_path / "end"
    launcher.begin(config, tmp_path / "run", LATE.format(end=str(end)))
    wait_until(end.exists)
    time.sleep(0.5)
    launcher.process.send_signal(signal.SIGUSR1)
    code, said = launcher.ended()
    assert code == 1
    status = read_status(tmp_path / "run")
    assert (status["status"], status["error"]) == ("preempted", "SIGUSR1: saved at step 45"), said


def test_ctrl_c_ends_all_processes_and_is_recorded(
    long: dict[str, Any], launcher: Launcher, tmp_path: Path
) -> None:
    launcher.begin(long, tmp_path / "run")
    wait_until(lambda: has_checkpoint(tmp_path / "run"))
    all_of_them = children(launcher.process)
    assert len(all_of_them) == 2
    launcher.process.send_signal(signal.SIGINT)
    code, _ = launcher.ended()
    assert code == 1
    status = read_status(tmp_path / "run")
    assert (status["status"], status["error"]) == ("preempted", "interrupted")
    assert not any(Path(f"/proc/{pid}").exists() for pid in all_of_them)


def test_a_loss_that_is_no_number_ends_all_processes(tiny_digits: Compose, tmp_path: Path) -> None:
    config = tiny_digits(*OPTIONS, *TWO, "optimizer.lr=1e30", "optimizer.warmup_steps=0")
    with pytest.raises(Diverged, match="loss is nan at step"):
        launch(config, tmp_path / "run", [])
    assert read_status(tmp_path / "run")["status"] == "diverged"


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
        check_devices(tiny_digits(*TWO, *options))


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}, {"SLURM_STEP_NUM_TASKS": "3"}],
)
def test_another_number_of_processes_than_devices_is_refused(
    environment: dict[str, str], tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="want 2 processes, but 3 were started"):
        check_devices(tiny_digits(*TWO))
    with pytest.raises(ConfigError, match="want 1 process, but 3 were started"):
        check_devices(tiny_digits())


def test_an_error_in_one_process_is_raised_in_all(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from attention_lab.training import ranks\n"
        "def make():\n"
        "    if os.environ['RANK'] == '1': raise ValueError('one of us')\n"
        "try:\n"
        "    with ranks.joined(make, 'cpu'):\n"
        "        print('met')\n"
        "except ValueError as error:\n"
        "    print(f'{error}\\n', end='')\n"
    )
    assert torchrun(script).count("one of us") == 2


def test_what_processes_agree_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from attention_lab.training import ranks\n"
        "with ranks.joined(lambda: None, 'cpu'):\n"
        "    me = ranks.rank()\n"
        "    found = [ranks.any_of_all(me == 1), ranks.any_of_all(False), ranks.of_all(me * 10)]\n"
        "    sums = ranks.total([me, 3], torch.device('cpu')).tolist()\n"
        "    found += [ranks.of_first(me + 5), sums]\n"
        "    found += [ranks.is_first() == (me == 0)]\n"
        "print(f'{found} {ranks.are_many()}\\n', end='')\n"  # at once, or lines mix
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
        "from attention_lab.training import run\n"
        "def build(config):\n"
        "    if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGUSR2)\n"
        "    return built(config)\n"
        "built, run.build = run.build, build\n"
        "try:\n"
        "    done = run.train(json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), [])\n"
        "except SystemExit as error:\n"
        "    done = f'{error}, {error.code}'\n"
        "print(f'{done}\\n', end='')\n"
    )
    said = torchrun(script, json.dumps(config), tmp_path / "run")
    assert sorted(said.split("\n")) == ["", "SIGUSR2, 1", "{}"]
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
    assert refused.value.stderr.count("want 3 processes, but 2 were started\n") == 1


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
    assert ranks.of_all(7) == [7]
    assert ranks.of_first(7) == 7
    assert ranks.any_of_all(True)
    assert not ranks.any_of_all(False)
    assert ranks.in_step(lambda: 7) == 7
    assert ranks.total([1, torch.tensor(2)], torch.device("cpu")).tolist() == [1, 2]


def test_torchrun_trains_one_run(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = torchrun(
        *("-m", "attention_lab", "train", "data=digits", "trainer=ddp_cpu", "logger=csv"),
        *("trainer.max_steps=2", "model.width=16"),
    )
    (found,) = (tmp_path / "outputs").glob("*/*")
    assert read_status(found)["status"] == "finished"
    assert said.count(found.name) > 0
    assert said.count("test/accuracy  ") == 1
