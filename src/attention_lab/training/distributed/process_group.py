"""The process group of a run: its rank and collective operations, also for a single process.

The rank of a process is in environment variables, which its launcher has set: torchrun, srun, or
:mod:`attention_lab.training.distributed.launch`. A run on one device is a single process with rank
0, in which nothing here communicates.
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

from attention_lab.config.components import ConfigError
from attention_lab.training.distributed import cluster_environment

T = TypeVar("T")

#: How long a rank waits for other ranks, which may load data or save a large checkpoint.
TIMEOUT = timedelta(minutes=30)


def world_size() -> int:
    """The number of processes that were started together; 1 for a single process."""
    return cluster_environment.world_size()


def check_world_size(devices: int, nodes: int) -> None:
    """Raise ConfigError if a launcher started another number of processes than the run needs."""
    if world_size() > 1 and world_size() != devices * nodes:
        raise ConfigError(
            f"trainer.devices={devices} and trainer.num_nodes={nodes} need {devices * nodes} "
            f"{'process' if devices * nodes == 1 else 'processes'}, but "
            f"{cluster_environment.launch_description()}"
        )


class _SLURMEnvironment(SLURMEnvironment):
    """Lightning's, but it accepts ``srun --ntasks`` without ``--ntasks-per-node``."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Skip Lightning's check; :func:`check_world_size` checks the number of tasks."""


def lightning_environment() -> ClusterEnvironment:
    """Lightning's plugin for the launcher of this process."""
    if world_size() == 1:
        return LightningEnvironment()
    if cluster_environment.launcher() == "torchrun":
        return TorchElasticEnvironment()
    return _SLURMEnvironment(auto_requeue=False)  # signals are handled in preemption.py


@contextmanager
def initialized(make: Callable[[], T], accelerator: str) -> Iterator[T]:
    """Initialize the process group until the context ends or :func:`destroy` is called.

    Yields what ``make`` returns. It is called before the group is initialized, so that it can
    compute metrics without synchronizing them across ranks.

    Args:
        make: called on each rank; an error on one of them is raised on all.
        accelerator: "cpu", "gpu" or "auto".
    """
    if world_size() == 1:
        # Lightning may have been imported before the leftover variables were unset.
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # Lightning sets it, undeclared
        yield make()
        return
    cluster = lightning_environment()
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
        backend, timeout=TIMEOUT, world_size=world_size(), rank=cluster.global_rank()
    )
    rank_zero_only.rank = cluster.global_rank()  # type: ignore[attr-defined]  # as above
    try:
        yield _agreed(made)
    except BaseException as error:
        # The launcher compares the times and reports the first error as the cause.
        error.when = time.monotonic()  # type: ignore[attr-defined]
        raise
    finally:
        destroy()


def destroy() -> None:
    """Destroy the process group, if there is one; this process then no longer communicates."""
    if is_distributed():
        distributed.destroy_process_group()


def is_distributed() -> bool:
    """Whether a process group is initialized."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """The rank of this process; rank 0 alone writes the run's record."""
    return cluster_environment.rank()


def is_rank_zero() -> bool:
    """Whether this process is rank 0, or the only one."""
    return rank() == 0


def any_rank(flag: bool) -> bool:
    """Whether a flag is true on any rank. Collective: all ranks must call it."""
    if not is_distributed():
        return flag
    flags = torch.tensor(int(flag))
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags)


def all_gather(value: T) -> list[T]:
    """The values of all ranks, by rank. Collective: all ranks must call it."""
    if not is_distributed():
        return [value]
    values = [value] * distributed.get_world_size()  # placeholders, which the call replaces
    distributed.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """The value of rank 0, on each rank. Collective: all ranks must call it."""
    if not is_distributed():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def on_every_rank(make: Callable[[], T]) -> T:
    """Call a function on each rank; an error on one of them is raised on all."""
    return _agreed(_outcome(make))


def _outcome(make: Callable[[], T]) -> T | Exception:
    """What a function returns or raises."""
    try:
        return make()
    except Exception as error:
        return error


def _agreed(outcome: T | Exception) -> T:
    """Return this rank's outcome if no rank has an error; else raise an error on all ranks."""
    own = outcome if isinstance(outcome, Exception) else None
    errors = [error for error in all_gather(own) if error is not None]
    if errors:
        raise own or errors[0]
    return cast(T, outcome)


def all_reduce_sum(counts: Sequence[Tensor | int], device: torch.device) -> Tensor:
    """The sums of N whole numbers over all ranks, (N,) int64 on ``device``."""
    # full() fills on the device, where as_tensor() would copy a number to it.
    parts = (
        count if isinstance(count, Tensor) else torch.full((), count, device=device)
        for count in counts
    )
    sums = torch.stack([part.to(torch.int64) for part in parts])
    if is_distributed():
        distributed.all_reduce(sums)
    return sums
