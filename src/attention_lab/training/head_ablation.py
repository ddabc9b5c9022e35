"""Evaluating a run with each of its attention heads switched off (Michel et al. 2019, §3)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from attention_lab.attention import attention_layers, head_ablated
from attention_lab.training.build import BuiltRun
from attention_lab.training.evaluation import evaluator
from attention_lab.training.tasks.base import Split

#: The number of parts of a split that are evaluated separately, for confidence intervals.
PARTS = 10


class AblatedHead(NamedTuple):
    """The metric of a run with one head switched off."""

    layer: str
    head: int
    #: The metric on each part of the split.
    parts: dict[int, float]


def number_of_examples(run: BuiltRun, split: Split) -> int:
    """The number of examples of a split."""
    return len(run.data.split(split).lengths())


def parts_scorer(run: BuiltRun, split: Split, metric: str) -> Callable[[], dict[int, float]]:
    """A function that returns the metric of a run on each part of a split.

    Part i has the rows i, i + PARTS, i + 2 · PARTS, ….
    """
    rows = torch.arange(number_of_examples(run, split))
    parts = [rows[first::PARTS] for first in range(min(PARTS, len(rows)))]
    evaluate = evaluator(run, split)
    return lambda: {part: evaluate(each)[metric] for part, each in enumerate(parts)}


def ablate_heads(run: BuiltRun, score: Callable[[], dict[int, float]]) -> Iterator[AblatedHead]:
    """Score a run with each head of each attention layer switched off, one at a time.

    Args:
        run: the run, with its weights.
        score: from :func:`parts_scorer`.
    """
    for name, layer in attention_layers(run.task.model).items():
        for head in range(layer.num_heads):
            with head_ablated(layer, head):
                yield AblatedHead(name, head, score())
