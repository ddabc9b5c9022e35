"""Clipping of gradients, by norm and by value."""

import copy
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from attention_lab.training.finite import RequireFinite
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import build
from tests.training.conftest import (
    Train,
)


def test_gradients_are_clipped_by_value(
    tiny_digits: Compose, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest: list[float] = []
    norms: list[float] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        largest.append(max(gradient.abs().max().item() for gradient in gradients))

    def check(_: RequireFinite, __: Any, task: AttentionTask, *___: Any) -> None:
        assert task.gradient_norm is not None
        norms.append(task.gradient_norm.item())

    monkeypatch.setattr(RequireFinite, "on_train_batch_end", check)
    hook = register_optimizer_step_post_hook(look)
    options = ("trainer.gradient_clip_val=0.001", "trainer.gradient_clip_algorithm=value")
    try:
        trained(tiny_digits(*options))
    finally:
        hook.remove()
    assert largest == [pytest.approx(0.001)] * 8
    assert min(norms) > 0.01, "the norm before clipping, which is checked for NaN"


def test_gradients_of_parameters_that_replace_others_are_clipped(tiny_digits: Compose) -> None:
    """As with FSDP, which shards the parameters of a task that was trained before."""
    task = build(tiny_digits()).task
    for _ in range(2):
        task.model = copy.deepcopy(task.model)
        parameters = list(task.model.parameters())
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = task.optimization.create_optimizer(task.model)
        task.configure_gradient_clipping(optimizer, 1.0, "norm")
        clipped = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        assert clipped == pytest.approx(1.0)


@pytest.mark.parametrize(("clip", "clipped"), [("null", False), ("0.001", True)])
def test_gradients_are_clipped_to_their_norm(
    clip: str, clipped: bool, tiny_digits: Compose, trained: Train
) -> None:
    norms: list[float] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

    hook = register_optimizer_step_post_hook(look)
    try:
        trained(tiny_digits(f"trainer.gradient_clip_val={clip}"))
    finally:
        hook.remove()
    assert len(norms) == 8
    for norm in norms:
        assert norm == pytest.approx(0.001, rel=1e-2) if clipped else norm > 0.01
