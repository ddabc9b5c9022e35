"""The table of `attention-lab list data`, read from the datasets themselves."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from attention_lab.config.compose import composed, group_options, option_description

NOTES = """
Sizes are those of training, validation and test. The trivial baseline needs no model; a
shortcut does well without solving the task. Both are computed now, on test, by the metric that
chooses checkpoints."""

#: What takes seconds to import, and is imported once for all processes.
HEAVY = ("attention_lab.data.core.datamodule", "attention_lab.config.components")


def table(extra: Path | None) -> Iterator[str]:
    """The lines, each as soon as it is known: what a dataset is, how much, baselines.

    Datasets are loaded side by side, in as many processes as there are processors.

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

    torch.set_num_threads(1)  # the other processors have processes of their own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who waits


def _facts(name: str, extra: Path | None) -> str:
    from attention_lab.config.components import check_node, create
    from attention_lab.data.core.datamodule import SplitDataModule
    from attention_lab.data.core.splits import SPLITS

    config = composed([f"data={name}"], extra)
    try:
        check_node("data", config["data"], SplitDataModule)
        data: SplitDataModule[Any] = create(config["data"], (SplitDataModule,))
        data.setup()
        known = {
            "trivial baseline": data.trivial_baseline("test"),
            **data.shortcut_baselines("test"),
        }
        marks = [f"{label} {metrics[data.monitor]:.3g}" for label, metrics in known.items()]
    except Exception as error:  # of a user's own, too: the others can still be listed
        return f"not loaded: {' '.join(str(error).split()) or type(error).__name__}"
    sizes = " / ".join(f"{len(data.split(split).lengths()):,}" for split in SPLITS)
    task, model = (config[section]["_target_"].rpartition(".")[2] for section in ("task", "model"))
    return f"{sizes}; {data.monitor}: {', '.join(marks)}; {task} with {model}"
