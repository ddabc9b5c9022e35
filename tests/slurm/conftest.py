"""A SLURM cluster for all tests, and commands that use it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Answer, Command, command  # noqa: F401
from tests.slurm.cluster import Cluster, eventually, lack

#: A run of 8 steps on made-up symbols.
TINY = (
    "logger=csv",
    "trainer=cpu",
    "data=reverse",
    "data.examples=160",
    "data.evaluation_examples=20",
    "data.batch_size=20",
    "model.d_model=16",
    "trainer.max_epochs=1",
)
#: A sweep of such runs.
SWEEP = (
    *("-m", *TINY, "--config-dir", "mine"),
    *("hydra.sweep.dir=sweep", "hydra/launcher=ours"),
)
MECHANISMS = """\
import os, time
from attention_lab.attention import DotProduct

class Broken(DotProduct):
    def forward(self, query, key):
        # It must not fail before a slow job beside it trains, however busy the machine is.
        while os.path.exists("slow") and not os.path.exists("slow-trains"):
            time.sleep(0.1)
        raise RuntimeError("it is broken")

class Deadly(DotProduct):
    def forward(self, query, key):
        os.kill(os.getpid(), 9)

class Slow(DotProduct):
    def forward(self, query, key):
        if self.training and os.path.exists("slow"):
            open("slow-trains", "w").close()
            time.sleep(float(os.environ["PAUSE"]))
        return super().forward(query, key)
"""

#: Starts `attention-lab ARGUMENTS…` in the test's directory, as on a login node.
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes of a real SLURM."""
    if reason := lack():
        pytest.skip(reason)
    # Not below pytest's own directory, which munge's clients may not read.
    with tempfile.TemporaryDirectory(prefix="slurm-") as home:
        Path(home).chmod(0o755)
        with Cluster(Path(home)) as running:
            yield running


@pytest.fixture
def environment(cluster: Cluster, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of commands and jobs; MECHANISMS are in the test's directory."""
    (tmp_path / "faulty.py").write_text(MECHANISMS)
    options = tmp_path / "mine" / "attention"
    options.mkdir(parents=True)
    for name in ("Broken", "Deadly", "Slow"):
        (options / f"{name.lower()}.yaml").write_text(
            "defaults: [_layer, _self_]\nbackend: eager\n"
            f"score: {{_target_: faulty.{name}, _partial_: true}}\n"
        )
    launchers = tmp_path / "mine" / "hydra" / "launcher"
    launchers.mkdir(parents=True)
    (launchers / "ours.yaml").write_text("defaults: [slurm, _self_]\npoll: 1\n")
    yield {
        **cluster.environment,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), cluster.environment["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    cluster.ask("scancel", "--user=root", "--signal=KILL")
    cluster.ask("scancel", "--user=root")
    eventually(lambda: not cluster.queue(), "the queue to be empty")


@pytest.fixture
def login(
    environment: dict[str, str],
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Command]:
    """Runs commands as on a login node, in this process: its imports are done."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield command
    sys.modules.pop("faulty", None)


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts commands; those that still run at the end of the test are ended."""
    started: list[subprocess.Popen[str]] = []

    def launch(*arguments: str, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "attention_lab", *arguments],
            cwd=tmp_path,
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts background jobs with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]") -> Answer:
    """The exit code and output of a command, once it has ended."""
    out, err = process.communicate(timeout=150)
    return Answer(process.returncode, out, err)


def records(sweep: Path) -> dict[str, dict[str, Any]]:
    """The status.json of each run, by its name without the hash."""
    return {
        path.parent.name.rpartition("-")[0]: json.loads(path.read_text())
        for path in sweep.glob("*/status.json")
    }


def job_of(sweep: Path, name: str) -> str:
    """The SLURM job of a run, by its name without the hash."""
    (file,) = sweep.glob(f"{name}-*/slurm.json")
    job: str = json.loads(file.read_text())["job"]
    return job
