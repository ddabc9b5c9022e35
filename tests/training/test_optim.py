"""The optimizer of a run: its class, its parameter groups, and clipping."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attention_lab.config.components import ConfigError
from attention_lab.training.lr_schedules import Constant
from attention_lab.training.muon import Muon
from attention_lab.training.optim import Optimization, ParameterGroups
from tests.conftest import Compose
from tests.runs import build, train
from tests.training.conftest import (
    Interrupt,
    assert_identical,
    train_until_interrupted,
)

OPTIMIZERS = ("adamw", "adam", "sgd", "nadam", "radam", "adafactor", "muon")


def adamw(**options: Any) -> Optimization:
    return Optimization(functools.partial(torch.optim.AdamW, **options))


def test_only_matrices_have_weight_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        model[2].bias.fill_(1.0)
        before["2.bias"] = torch.ones(4)
    optimizer = adamw(lr=0.5, weight_decay=0.2).create_optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        kept = 1 - 0.5 * 0.2 if name in ("0.weight", "1.weight") else 1.0
        torch.testing.assert_close(value, kept * before[name], msg=name)


def test_every_trained_parameter_is_optimized_once_and_frozen_ones_never() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight.requires_grad_(False)
    optimizer = Optimization().create_optimizer(model)
    optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_decay_biases_and_norms_gives_all_parameters_weight_decay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    (group,) = ParameterGroups(decay_biases_and_norms=True).groups(model)
    assert len(group["params"]) == 4
    assert "weight_decay" not in group


def test_lr_factors_apply_by_parameter_name() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "output": nn.Linear(4, 4)})
    groups = ParameterGroups(lr_factors={"output.bias": 0.0, "output.*": 0.5})
    optimization = Optimization(torch.optim.SGD, Constant(), groups)
    optimizer = optimization.create_optimizer(model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    default = optimizer.defaults["lr"]
    assert rates[id(model["embedding"].weight)] == default
    assert rates[id(model["output"].weight)] == default / 2
    assert rates[id(model["output"].bias)] == 0
    optimization.schedule.scheduler(optimizer, 10)
    assert [group["lr"] for group in optimizer.param_groups] == list(dict.fromkeys(rates.values()))


def test_the_first_group_has_the_learning_rate_that_is_logged() -> None:
    groups = ParameterGroups(lr_factors={"weight": 0.5}).groups(nn.Linear(2, 2))
    assert [group["lr_factor"] for group in groups] == [1.0, 0.5]


def test_an_optimizer_without_a_learning_rate_is_refused() -> None:
    class Fixed(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

    with pytest.raises(ValueError, match="Fixed has no lr to schedule"):
        Optimization(Fixed).create_optimizer(nn.Linear(1, 1))


@pytest.mark.parametrize("option", ["foreach", "differentiable"])
def test_an_option_that_excludes_the_fused_kernel_disables_it(
    option: str, tiny_digits: Compose
) -> None:
    task = build(tiny_digits(f"optimizer.{option}=true")).task
    defaults = task.optimization.create_optimizer(task.model).defaults
    assert defaults[option]
    assert not defaults["fused"]


def test_invalid_lr_factors_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing, zzz applies to no parameter"):
        ParameterGroups(lr_factors={"zzz": 1.0, "*": 1.0, "nothing": 1.0}).groups(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"lr_factors: \* must be at least 0, got -1"):
        ParameterGroups(lr_factors={"*": -1.0})


def test_muon_is_muon_for_matrices_and_adamw_for_the_rest() -> None:
    model = nn.ParameterDict(
        {
            "matrix": nn.Parameter(torch.randn(6, 4)),
            "vector": nn.Parameter(torch.randn(4)),
            "cube": nn.Parameter(torch.randn(2, 3, 4)),
        }
    )
    model.embedding = nn.Embedding(3, 4)
    expected = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    options = {"lr": 0.1, "weight_decay": 0.0}
    optimizer = Optimization(functools.partial(Muon, **options)).create_optimizer(model)
    others = [p for name, p in expected.items() if name != "matrix"]
    references: list[torch.optim.Optimizer] = [
        torch.optim.Muon([expected["matrix"]], **options, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, **options, betas=(0.9, 0.95)),
    ]
    for _ in range(3):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            expected[name].grad = parameter.grad.clone()
        for each in (optimizer, *references):
            each.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_with_any_optimizer_is_resumed_exactly(
    name: str, tiny_digits: Compose, tmp_path: Path, interrupt_after: Interrupt
) -> None:
    options = [f"optimizer={name}", "scheduler=plateau", "scheduler.patience=0"]
    config = tiny_digits(*options, "scheduler.threshold=0.5")
    train(config, tmp_path / "whole", [])
    interrupt_after(6)
    train_until_interrupted(config, tmp_path / "run")
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
        (["optimizer=muon", "optimizer.lr=-1"], "optimizer: Learning rate should be >= 0"),
        (["optimizer.betas=[0.9,1.0]"], "optimizer: Invalid beta parameter at index 1: 1.0"),
        (["optimizer.betas=[0.9]"], "optimizer.betas: "),
        (["optimizer.fused=true", "trainer.precision=16-mixed"], "optimizer.fused: cannot be"),
        (["optimizer.fused=true", "optimizer.foreach=true"], "optimizer: `fused` and `foreach`"),
        (["+model.num_classes=3"], "model.num_classes: cannot be set; the data sets it"),
        (["optimizer=muon", "trainer.strategy=fsdp"], "Muon cannot train with trainer.strategy"),
        (
            ["parameter_groups.lr_factors={nothing:2}"],
            "lr_factors: nothing applies to no parameter",
        ),
        (
            ["+optimizer.params=[]"],
            "optimizer.params: cannot be set; the model has them",
        ),
    ],
)
def test_invalid_optimization_is_refused_before_training(
    options: list[str], message: str, tiny_digits: Compose
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tiny_digits(*options))
    assert message in str(caught.value)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped(precision: str, tiny_digits: Compose, tmp_path: Path) -> None:
    """With lr=1, a step of plain gradient descent has the length of the clipped gradient."""

    def moved(clip: str) -> float:
        directory = tmp_path / clip
        options = [f"trainer.precision={precision}", f"trainer.gradient_clip_val={clip}"]
        descent = ["optimizer=sgd", "optimizer.lr=1.0", "scheduler=constant"]
        config = tiny_digits(*options, *descent, "trainer.max_steps=1")
        before = {k: v.clone() for k, v in build(config).task.state_dict().items()}
        train(config, directory, [])
        after = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return math.sqrt(sum(float((after[k] - v).square().sum()) for k, v in before.items()))

    assert moved("0.001") == pytest.approx(0.001, rel=0.01)
    assert moved("null") > 0.01


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_precision_trains(precision: str, tiny_digits: Compose, tmp_path: Path) -> None:
    options = [f"trainer.precision={precision}", "trainer.max_steps=1"]
    assert train(tiny_digits(*options), tmp_path / "run", [])["steps"] == 1


@pytest.mark.parametrize(("precision", "is_fused"), [("32-true", True), ("16-mixed", False)])
def test_16_mixed_does_not_use_a_fused_optimizer(
    tiny_digits: Compose, precision: str, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.training.build._check_precision", lambda _: None)  # no GPU
    task = build(tiny_digits(f"trainer.precision={precision}")).task
    optimizer = task.optimization.create_optimizer(task.model)
    assert optimizer.defaults["fused"] == is_fused
