"""Uninterrupted runs on two ranks, and a process that launches runs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Compose
from tests.runs import launch

TWO = ("trainer=ddp_cpu", "trainer.devices=2")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the machine appear to have two cores."""
    monkeypatch.setattr("attention_lab.training.distributed.launch.cores", lambda: 2)


#: 5 epochs of 9 steps on 2 processes, with dropout, validated in mid-epoch.
OPTIONS = (
    *("attention.dropout=0.2", "data.batch_size=70", "trainer.val_check_interval=4"),
    "trainer.max_epochs=5",
)


@pytest.fixture(scope="session")
def config(tiny_digits: Compose) -> dict[str, Any]:
    return tiny_digits(*OPTIONS, *TWO, "trainer.enable_progress_bar=false")


@pytest.fixture(scope="session")
def two(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on two ranks."""
    directory = tmp_path_factory.mktemp("two") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attention_lab.training.distributed.launch.cores", lambda: 2)
        launch(config, directory, [])
    return directory


@pytest.fixture(scope="session")
def sharded(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on two ranks with a sharded model."""
    directory = tmp_path_factory.mktemp("sharded") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attention_lab.training.distributed.launch.cores", lambda: 2)
        launch(fsdp(config), directory, [])
    return directory


def fsdp(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "trainer": {**config["trainer"], "strategy": "fsdp"}}


@pytest.fixture(scope="session")
def one(tiny_digits: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process, with the same batches."""
    directory = tmp_path_factory.mktemp("one") / "run"
    launch(tiny_digits(*OPTIONS, "data.batch_size=140"), directory, [])
    return directory


#: Launches a run for each line on stdin, and prints the exit code that a command would have.
LAUNCHER = """\
import json, pathlib, signal, sys, traceback
from attention_lab.config.resolve import RunSpec
from attention_lab.tracking.run_config import resolve
from attention_lab.training.distributed import launch
exec(pathlib.Path(__file__).with_name("change.py").read_text())
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, lambda *_: None)  # a late one must not end the next run
    launch.cores = lambda: 2
    for line in sys.stdin:
        config, directory = json.loads(line)
        code = 0
        try:
            launch.launch(RunSpec(resolve(config), pathlib.Path(directory)))
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = 1
        print(f"ended: {code}", flush=True)
"""


class Launcher:
    """A process that launches runs on two ranks, one after the other.

    Args:
        home: an empty directory.
    """

    def __init__(self, home: Path) -> None:
        self._log, self._change, self._before = home / "log", home / "change.py", 0
        self._change.touch()
        script = home / "launcher.py"
        script.write_text(LAUNCHER)
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, config: Mapping[str, Any], directory: Path, change: str = "") -> None:
        """Start a run; its ranks execute ``change`` first."""
        self._change.write_text(change)
        self._before = self._log.stat().st_size
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps([config, str(directory)])}\n".encode())
        self.process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        """The exit code that a command would have, and the output, of the last run."""
        wait_until(lambda: self.process.poll() is not None or "ended: " in self._output())
        output, _, code = self._output().rpartition("ended: ")
        return int(code), output

    def _output(self) -> str:
        return self._log.read_bytes()[self._before :].decode()

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def own_launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A launcher for one test only."""
    launcher = Launcher(tmp_path_factory.mktemp("own_launcher"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A launcher that tests share, because it starts slowly; tests must not kill it."""
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
    """The process ids of a run's ranks, in order: the fork server starts them one by one."""
    return [pid for server in servers(process) for pid in _below(server, process)]


def servers(process: subprocess.Popen[bytes]) -> list[int]:
    """The process id of a run's fork server; empty before it is started."""
    return _below(process.pid, process)


def _below(parent: int, process: subprocess.Popen[bytes]) -> list[int]:
    """The ids of the fork server processes that a process has started."""
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


@pytest.fixture(scope="session")
def long(tiny_digits: Compose) -> dict[str, Any]:
    """A config with more steps, so that there is time to interrupt the run."""
    return tiny_digits(*OPTIONS, *TWO, "trainer.max_epochs=300", "trainer.val_check_interval=18")
