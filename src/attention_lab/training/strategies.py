"""Lightning's strategies and profilers for the options of a Trainer."""

from pathlib import Path
from typing import Literal

from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from attention_lab.training.distributed import process_group


def make_profiler(name: str | None, directory: Path) -> Profiler | None:
    """The profiler of a name, which writes ``*profile*`` files into a directory."""
    kinds: dict[str, type[Profiler]] = {
        "simple": SimpleProfiler,
        "advanced": AdvancedProfiler,
        "pytorch": PyTorchProfiler,
    }
    return kinds[name](directory, "profile") if name else None


def make_strategy(name: str, processes: int, accumulates: bool) -> Strategy | Literal["auto"]:
    """The strategy of a name, in a process group; "auto" for a single process.

    Args:
        name: "fsdp", or one that means DDP.
        processes: the number of all processes.
        accumulates: whether gradients are accumulated; DDP then synchronizes only the last batch.
    """
    if not process_group.is_distributed():
        return "auto"
    if name == "fsdp":
        return ModelParallelStrategy(processes, 1, save_distributed_checkpoint=False)
    finds_unused = accumulates or name == "ddp_find_unused_parameters_true"
    return DDPStrategy(
        broadcast_buffers=False,  # training changes no buffers
        gradient_as_bucket_view=True,
        # Parameters without gradients (attention=none) never get one. A static graph is faster, but
        # it fails where accumulated batches are not synchronized.
        static_graph=not finds_unused,
        find_unused_parameters=finds_unused,
    )
