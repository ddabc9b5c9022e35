"""Ensembles of trained tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_lab.config.identity import differences
from attention_lab.models.ensemble import Ensemble
from attention_lab.tracking.run_directory import read_config
from attention_lab.training.build import check_lengths
from attention_lab.training.tasks.base import AttentionTask

#: Options of the data that choose rows of batches, and not which examples are in a split.
_ROWS = ("batch_size", "seed", "packing", "packed_length")


class CannotCombine(ValueError):
    """Runs cannot be an ensemble. The message is one line, for the user."""


def make_ensemble(directories: Sequence[Path], tasks: Sequence[AttentionTask]) -> None:
    """Give the first task the ensemble of all tasks' networks; one task is not changed.

    Its data and its options of decoding are then those of the ensemble.

    Args:
        directories: the run directory of each task, for messages.
        tasks: the trained tasks.

    Raises:
        CannotCombine: if the tasks, or the meanings of their tokens or classes, differ.
    """
    first, *others = tasks
    for directory, other in zip(directories[1:], others, strict=True):
        if difference := _difference(first, other):
            both = f"{directories[0]} and {directory}"
            raise CannotCombine(f"{both} cannot predict together: {difference}")
    if others:
        first.model = Ensemble([task.model for task in tasks])


def check_evaluation(directories: Sequence[Path], tasks: Sequence[AttentionTask]) -> None:
    """Check that an ensemble can be evaluated, and that no test example of a run trained another.

    Args:
        directories: the run directory of each task.
        tasks: the trained tasks; the first is evaluated, with its options of decoding.

    Raises:
        CannotCombine: if the configs of their data differ, or a network has too few positions.
    """
    configs = [_splits(read_config(directory)) for directory in directories]
    for directory, other in zip(directories, configs, strict=True):
        if lines := differences(configs[0], other):
            problem = f"{directory} has other examples than {directories[0]}"
            raise CannotCombine(f"{problem}: {'; '.join(lines)}")
    longest, generated = tasks[0].data.longest(), getattr(tasks[0], "max_length", 0)
    for directory, task in zip(directories[1:], tasks[1:], strict=True):
        try:
            check_lengths(task.model, longest, generated)
        except ValueError as error:
            problem, *_ = str(error).split(";")
            raise CannotCombine(
                f"{directory} cannot decode as many tokens as {directories[0]}: {problem}; name "
                f"{directory} first"
            ) from error


def _splits(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that decides which examples are in which split."""
    data = {k: it for k, it in config["data"].items() if k not in _ROWS}
    return {"data": data, "data_files": config.get("data_files")}


def _difference(first: AttentionTask, other: AttentionTask) -> str:
    """What differs between tasks so that they cannot be an ensemble; "" if nothing does."""
    if first.task != other.task:
        return f"they are for {first.task} and {other.task}"
    if difference := first.data.difference(other.data):
        return f"they are on different data: {difference}"
    if getattr(first.data, "classes", None) != getattr(other.data, "classes", None):
        return "their classes differ"
    return ""
