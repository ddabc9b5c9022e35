"""The table of `attention-lab list data`: sizes and baselines of all datasets."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from attention_lab.config.compose import composed, group_options, option_description

NOTES = """
Sizes: training, validation, test. The trivial baseline needs no model; shortcut baselines do well
without solving the task. Both are test values of the metric that selects checkpoints."""

#: Modules that take seconds to import; the fork server imports them once.
HEAVY = ("attention_lab.data.core.datamodule", "attention_lab.config.components")


def table(extra: Path | None) -> Iterator[str]:
    """Yield the lines of the table: description, sizes and baselines of each dataset.

    Datasets are loaded in parallel, in one process per CPU core.

    Args:
        extra: the user's own config directory.
    """
    options = group_options("data", extra)
    width = max(map(len, options))
    yield "data="
    with _processes() as processes:
        facts = processes.map(partial(_facts, extra=extra), options)
        for name, file in options.items():
            yield f"  {name:<{width}}  {option_description(file)}"
            yield f"  {'':<{width}}  {next(facts)}"
    yield NOTES


def _processes() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(HEAVY))
    return ProcessPoolExecutor(mp_context=context, initializer=_begin)


def _begin() -> None:
    import torch

    torch.set_num_threads(1)  # the other cores have their own processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C


def _facts(name: str, extra: Path | None) -> str:
    from attention_lab.config.components import check_node, create
    from attention_lab.data.core.datamodule import SplitDataModule
    from attention_lab.data.core.splits import SPLITS

    config = composed([f"data={name}"], extra)
    try:
        check_node("data", config["data"], SplitDataModule)
        data: SplitDataModule[Any] = create(config["data"], (SplitDataModule,))
        data.setup()
        known = data.baselines("test").items()
        marks = [f"{label} {metrics[data.monitor]:.3g}" for label, metrics in known]
    except Exception as error:  # also of a user's dataset: the others are still listed
        return f"not loaded: {' '.join(str(error).split()) or type(error).__name__}"
    sizes = " / ".join(f"{len(data.split(split).lengths()):,}" for split in SPLITS)
    task, model = (config[section]["_target_"].rpartition(".")[2] for section in ("task", "model"))
    return f"{sizes}; {data.monitor}: {', '.join(marks)}; {task} with {model}"
