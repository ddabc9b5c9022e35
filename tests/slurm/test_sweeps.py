"""Sweeps as jobs of a real SLURM."""

from pathlib import Path

from tests.cli.conftest import TINY
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Start, ended

SLURM = ("-m", *TINY, "hydra/launcher=slurm", "hydra.launcher.poll=1", "hydra.sweep.dir=sweep")


def test_a_sweep_is_an_array_of_which_some_run_at_a_time(
    start: Start, cluster: Cluster, tmp_path: Path
) -> None:
    answer = ended(start("train", *SLURM, "hydra.launcher.at_once=2", "seed=range(4)"))
    assert answer.code == 0, answer.err
    print(answer.out)
