"""Lightning's strategies and profilers for the options of a Trainer."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.profilers import (
    AdvancedProfiler,
    PassThroughProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from attention_lab.spelling import nearest
from attention_lab.training.distributed import process_group

#: The options of ``DistributedDataParallel`` that ``trainer.strategy_options`` may set.
DDP_OPTIONS: Mapping[str, type] = {
    "find_unused_parameters": bool,
    "static_graph": bool,
    "gradient_as_bucket_view": bool,
    "broadcast_buffers": bool,
    "bucket_cap_mb": float,
}


class NoProfiler(PassThroughProfiler):
    """Records nothing; Lightning's own creates a generator for each call of each hook."""

    _context = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._context


def make_profiler(name: str | None, directory: Path) -> Profiler:
    """The profiler of a name, which writes ``*profile*`` files into a directory; None: none."""
    kinds: dict[str, type[Profiler]] = {
        "simple": SimpleProfiler,
        "advanced": AdvancedProfiler,
        "pytorch": PyTorchProfiler,
    }
    return kinds[name](directory, "profile") if name else NoProfiler()


def check_strategy_options(
    strategy: str, options: Mapping[str, bool | float], accumulates: bool
) -> None:
    """Raise ValueError if a strategy does not have these options.

    Args:
        strategy: its name.
        options: by name.
        accumulates: whether gradients are accumulated.
    """
    if strategy == "fsdp":
        raise ValueError("strategy_options are those of DDP, and strategy=fsdp has none")
    for name, value in options.items():
        if name not in DDP_OPTIONS:
            raise ValueError(f"strategy_options has no key {name!r}{nearest(name, DDP_OPTIONS)}")
        is_bool = isinstance(value, bool)
        if is_bool != (DDP_OPTIONS[name] is bool) or (not is_bool and not 0 < value < math.inf):
            kind = "true or false" if DDP_OPTIONS[name] is bool else "a number above 0"
            raise ValueError(f"strategy_options.{name} must be {kind}, got {value!r}")
    if options.get("static_graph") and options.get("find_unused_parameters"):
        raise ValueError(
            "strategy_options.find_unused_parameters must be false with static_graph, which finds "
            "them once"
        )
    if options.get("static_graph") and accumulates:
        raise ValueError(
            "strategy_options.static_graph must be false with accumulate_grad_batches above 1"
        )


def make_strategy(
    name: str, processes: int, accumulates: bool, options: Mapping[str, bool | float]
) -> Strategy | Literal["auto"]:
    """The strategy of a name, in a process group; "auto" for a single process.

    Args:
        name: "fsdp", or one that means DDP.
        processes: the number of all processes.
        accumulates: whether gradients are accumulated; DDP then synchronizes only the last batch.
        options: of DDP, which replace ours.
    """
    if not process_group.is_distributed():
        return "auto"
    if name == "fsdp":
        return ModelParallelStrategy(processes, 1, save_distributed_checkpoint=False)
    finds_unused = accumulates or name == "ddp_find_unused_parameters_true"
    finds_unused = bool(options.get("find_unused_parameters", finds_unused))
    ours: dict[str, Any] = {
        "broadcast_buffers": False,  # training changes no buffers
        "gradient_as_bucket_view": True,
        # Parameters without gradients (attention=none) never get one. A static graph is faster, but
        # it fails where accumulated batches are not synchronized.
        "static_graph": not finds_unused,
        "find_unused_parameters": finds_unused,
    }
    return DDPStrategy(**{**ours, **options})
