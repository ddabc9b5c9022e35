"""Evaluating a run without single heads."""

from typing import Any

import pytest
import torch
from lightning import Trainer

from attention_lab.attention import attention_layers
from attention_lab.training import evaluation, head_ablation
from attention_lab.training.evaluation import evaluate
from attention_lab.training.head_ablation import PARTS, ablate_heads, parts_scorer
from tests.conftest import Compose
from tests.runs import build


def test_parts_are_all_examples_once(tiny_digits: Compose) -> None:
    """All images are in one part each: the accuracy is the mean of the parts by size."""
    run = build(tiny_digits())
    parts = parts_scorer(run, "test", "accuracy")()
    assert list(parts) == list(range(PARTS))
    total = len(run.data.split("test").labels)
    sizes = [len(range(part, total, PARTS)) for part in parts]
    right = [parts[part] * size for part, size in enumerate(sizes)]
    assert right == pytest.approx([round(count) for count in right], abs=1e-3)
    assert sum(right) / total == pytest.approx(evaluate(run, "test")["accuracy"], abs=1e-6)


def test_each_head_of_each_layer_is_off_once(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_ablation, "PARTS", 2)
    run = build(tiny("attention=multi_head", "attention.num_heads=2"))
    score = parts_scorer(run, "test", "loss")
    found = list(ablate_heads(run, score))
    assert [(each.layer, each.head) for each in found] == [
        (layer, head) for layer in attention_layers(run.task.model) for head in range(2)
    ]
    layer, head, parts = found[3]
    projection = attention_layers(run.task.model)[layer].output_projection
    with torch.no_grad():
        projection.weight[:, 8 * head : 8 * (head + 1)] = 0
    assert parts == pytest.approx(score(), rel=1e-5)


def test_one_trainer_evaluates_all_parts(
    tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[Trainer] = []

    def trainer(**arguments: Any) -> Trainer:
        trainers.append(Trainer(**arguments))
        return trainers[-1]

    monkeypatch.setattr(evaluation, "Trainer", trainer)
    score = parts_scorer(build(tiny_digits()), "test", "accuracy")
    assert score() == score()
    assert len(trainers) == 1
