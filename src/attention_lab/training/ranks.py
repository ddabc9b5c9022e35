"""The processes that train one run together: which of them this is, and what they agree on.

Who starts them says so in their environment: :mod:`attention_lab.training.launch` on one machine,
torchrun, or SLURM's srun. A run on one device is one process, the first; then nothing here waits
for anybody.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as distributed
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from attention_lab.training import cluster_environment
from attention_lab.training.nodes import ConfigError

T = TypeVar("T")

#: How long the others are waited for: one may be loading data, or writing a large checkpoint.
PATIENCE = timedelta(minutes=30)


def started() -> int:
    """As one of how many processes this one was started; 1 if it is alone."""
    return cluster_environment.world_size()


def check_number(devices: int, nodes: int) -> None:
    """Raise ConfigError if more or fewer processes were started than a run wants."""
    if started() > 1 and started() != devices * nodes:
        raise ConfigError(
            f"trainer.devices={devices} and trainer.num_nodes={nodes} want {devices * nodes} "
            f"{'process' if devices * nodes == 1 else 'processes'}, but "
            f"{cluster_environment.started()}"
        )


class _Step(SLURMEnvironment):
    """A step of SLURM, also of ``srun --ntasks``: Lightning wants ``--ntasks-per-node``."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Not here: :func:`check_number` has."""


def environment() -> ClusterEnvironment:
    """How a process finds the others."""
    if started() == 1:
        return LightningEnvironment()
    if cluster_environment.launcher() == "torchrun":
        return TorchElasticEnvironment()
    return _Step(auto_requeue=False)  # what SLURM's signals mean is not for Lightning to say


@contextmanager
def joined(make: Callable[[], T], accelerator: str) -> Iterator[T]:
    """Meet the others, for as long as it lasts or until :func:`leave`, with what each has made.

    What is made before that may compute metrics, which later would wait for all others to do so.

    Args:
        make: called in each process; an error in one of them is raised in all.
        accelerator: "cpu", or where else the run may compute.
    """
    if started() == 1:
        # Lightning may have been imported before the leftover variables were unset.
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
        yield make()
        return
    cluster = environment()
    on_gpus = accelerator != "cpu" and torch.cuda.is_available()

    def made_here() -> T:
        if on_gpus:
            torch.cuda.set_device(cluster.local_rank())
        return make()

    made = _outcome(made_here)
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    os.environ["MASTER_ADDR"] = cluster.main_address
    os.environ["MASTER_PORT"] = str(cluster.main_port)
    distributed.init_process_group(
        backend, timeout=PATIENCE, world_size=started(), rank=cluster.global_rank()
    )
    rank_zero_only.rank = cluster.global_rank()  # type: ignore[attr-defined]
    try:
        yield _agreed(made)
    except BaseException as error:
        error.when = time.monotonic()  # type: ignore[attr-defined]  # the others fail by its leaving
        raise
    finally:
        leave()


def leave() -> None:
    """Go on alone."""
    if are_many():
        distributed.destroy_process_group()


def are_many() -> bool:
    """Whether this process trains a run together with others."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """The number of this process, from 0; the first one alone keeps the run's record."""
    return cluster_environment.rank()


def is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return rank() == 0


def any_of_all(flag: bool) -> bool:
    """Whether a flag is up in any of the processes, which all have to ask."""
    if not are_many():
        return flag
    flags = torch.tensor(int(flag))
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags)


def of_all(value: T) -> list[T]:
    """What each of the processes, which all have to ask, has for a value, by rank."""
    if not are_many():
        return [value]
    values: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def of_first(value: T) -> T:
    """The first process's value, in each of them."""
    if not are_many():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def in_step(make: Callable[[], T]) -> T:
    """What each process makes for itself; an error in one of them is raised in all."""
    return _agreed(_outcome(make))


def _outcome(make: Callable[[], T]) -> T | Exception:
    try:
        return make()
    except Exception as error:
        return error


def _agreed(outcome: T | Exception) -> T:
    own = outcome if isinstance(outcome, Exception) else None
    errors = [error for error in of_all(own) if error is not None]
    if errors:
        raise own or errors[0]
    return cast(T, outcome)


def total(counts: Sequence[Tensor | int], device: torch.device) -> Tensor:
    """The sums of some whole numbers over all processes, (N,) int64 on a device."""
    sums = torch.stack([torch.as_tensor(count, device=device).to(torch.int64) for count in counts])
    if are_many():
        distributed.all_reduce(sums)
    return sums
