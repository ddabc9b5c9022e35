"""Ensembles of trained tasks."""

from collections.abc import Sequence
from pathlib import Path

from attention_lab.models.ensemble import Ensemble
from attention_lab.training.tasks.base import AttentionTask


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


def _difference(first: AttentionTask, other: AttentionTask) -> str:
    """What differs between tasks so that they cannot be an ensemble; "" if nothing does."""
    if first.task != other.task:
        return f"they are for {first.task} and {other.task}"
    if difference := first.data.difference(other.data):
        return f"they are on different data: {difference}"
    if getattr(first.data, "classes", None) != getattr(other.data, "classes", None):
        return "their classes differ"
    return ""
