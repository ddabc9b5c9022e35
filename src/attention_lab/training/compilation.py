"""Compiling the training loss with ``torch.compile``."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_map_only

from attention_lab.printing import echo
from attention_lab.spelling import nearest
from attention_lab.training.distributed import process_group
from attention_lab.training.tasks.base import AttentionTask, Loss

#: The arguments of ``torch.compile`` that can be set, and their types.
ARGUMENTS = {"mode": str, "backend": str, "fullgraph": bool, "dynamic": bool}
MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune")


def check_arguments(arguments: Mapping[str, str | bool]) -> None:
    """Raise ValueError if these are not arguments of ``torch.compile`` that can be set."""
    for name, value in arguments.items():
        if name not in ARGUMENTS:
            raise ValueError(f"compile has no key {name!r}{nearest(name, ARGUMENTS)}")
        if not isinstance(value, ARGUMENTS[name]):
            kind = "true or false" if ARGUMENTS[name] is bool else "a name"
            raise ValueError(f"compile.{name} must be {kind}, got {value!r}")
        if name == "mode" and value not in MODES:
            raise ValueError(f"compile.mode must be one of {', '.join(MODES)}; got {value!r}")
        if name == "backend" and value not in (backends := torch.compiler.list_backends(())):
            hint = nearest(str(value), backends)
            raise ValueError(f"compile.backend: there is no backend {value!r}{hint}")


class CompileLoss(Callback):
    """Compiles the training loss of a task before the first step.

    Validation, decoding and attention maps use the uncompiled model, which has the same weights. If
    the compiler fails, the run trains uncompiled, and a line says why.

    Args:
        arguments: of ``torch.compile``. Lengths are dynamic by default, as batches differ in them.
    """

    def __init__(self, arguments: Mapping[str, str | bool]) -> None:
        self.arguments = arguments

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task, started = cast(AttentionTask, pl_module), time.perf_counter()
        if trainer.is_global_zero:
            echo("trainer.compile: compiling the training loss, which can take minutes")
        compiled, failure = None, ""
        try:
            compiled = _compiled(self.arguments)
            for batch in _batches(task):
                with trainer.precision_plugin.train_step_context():
                    _try(compiled, task, trainer.strategy.batch_to_device(batch))
        except Exception as error:  # an error of the model's own occurs again in training
            failure = _first_line(error)
        failure = max(process_group.all_gather(failure))  # either all ranks are compiled or none
        task.compiled_loss = None if failure else compiled
        if trainer.is_global_zero:
            took = f"compiled in {time.perf_counter() - started:.0f} s"
            outcome = f"{failure}; training uncompiled" if failure else took
            echo(f"trainer.compile: {outcome}", error=bool(failure))


def _compiled(arguments: Mapping[str, str | bool]) -> Callable[[AttentionTask, Any], Loss]:
    torch._dynamo.reset()  # torch limits the number of graphs per process, not per run
    options: dict[str, Any] = {"dynamic": True, **arguments}
    if options.get("backend", "inductor") == "inductor":
        from torch._inductor import list_mode_options  # slow

        # With fallback_random, dropout draws the same numbers as in an uncompiled run.
        mode = list_mode_options(options.pop("mode", "default"))
        options["options"] = {**mode, "fallback_random": True}
    compiled = torch.compile(_loss, **options)
    # A batch may be a view of a longer one, which would need another graph.
    return lambda task, batch: compiled(task, tree_map_only(Tensor, _contiguous_copy, batch))


def _contiguous_copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _loss(task: AttentionTask, batch: Any) -> Loss:
    return task.loss(batch)


def _batches(task: AttentionTask) -> Iterator[Any]:
    """The longest and the shortest training examples.

    They are the same when a run resumes, so that it compiles the same kernels: they can depend on
    the sizes of the first batches.
    """
    examples, size = task.data.training_rows(), task.data.batch_size
    order = examples.lengths().sum(1).argsort(stable=True)
    for rows in (order[-size:], order[:size]):
        yield examples.select(rows)


def _try(compiled: Callable[[AttentionTask, Any], Loss], task: AttentionTask, batch: Any) -> None:
    """Compile forward and backward for a batch; random states and gradients stay as they are."""
    devices = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        loss = compiled(task, batch).mean
        parameters = [p for p in task.parameters() if p.requires_grad]
        # Not loss.backward(), which would start DDP's communication.
        torch.autograd.grad(loss, parameters, allow_unused=True)


def _first_line(error: Exception) -> str:
    """The first line of an error; the first two if the first only introduces the second."""
    first, *others = [line for line in str(error).splitlines() if line] or [repr(error)]
    return f"{first} {others[0]}" if first.endswith(":") and others else first
