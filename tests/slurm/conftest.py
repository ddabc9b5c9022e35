"""A SLURM that the tests share, and commands that use it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Answer
from tests.slurm.cluster import Cluster, lack

#: Starts `attention-lab ARGUMENTS…` in the test's directory, as on a login node.
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes of a real SLURM."""
    if reason := lack():
        pytest.skip(reason)
    # Not below pytest's own directory, into which munge's clients may not look.
    with tempfile.TemporaryDirectory(prefix="slurm-") as home:
        Path(home).chmod(0o755)
        with Cluster(Path(home)) as running:
            yield running


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Iterator[Start]:
    """Starts commands; those that still run at the end of the test are ended."""
    started: list[subprocess.Popen[str]] = []
    environment = {
        **cluster.environment,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }

    def launch(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "attention_lab", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()
    cluster.ask("scancel", "--user=root", "--full")


def ended(process: "subprocess.Popen[str]", patience: float = 120) -> Answer:
    """What a command has said once it has ended."""
    out, err = process.communicate(timeout=patience)
    return Answer(process.returncode, out, err)
