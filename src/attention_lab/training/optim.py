"""The optimizer of a run, its parameter groups, and its learning rate schedule."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from attention_lab.training.lr_schedules import Constant, Schedule

#: A function of parameter groups that returns an optimizer: a class, or a partial of one.
OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]


def total_steps(max_epochs: int, max_steps: int, steps_per_epoch: int) -> float:
    """The optimizer steps of a training, from Lightning's limits, where -1 means no limit.

    >>> total_steps(10, -1, 80), total_steps(-1, 3000, 80), total_steps(10, 3000, 80)
    (800, 3000, 800)
    """
    by_epochs = math.inf if max_epochs == -1 else max_epochs * steps_per_epoch
    return by_epochs if max_steps == -1 else min(by_epochs, max_steps)


@dataclass(frozen=True)
class ParameterGroups:
    """Parameter groups for any optimizer: weight decay and learning rates by parameter.

    Raises:
        ValueError: if a factor is negative.
    """

    #: Whether biases and norms (parameters of one dimension) have weight decay, too.
    decay_biases_and_norms: bool = False
    #: Factors of the learning rate by patterns of parameters' names, such as
    #: ``{"*embedding*": 0.1}``. The first pattern that matches applies; 0 freezes the parameters.
    lr_factors: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for pattern, factor in (self.lr_factors or {}).items():
            if factor < 0:
                raise ValueError(f"lr_factors: {pattern} must be at least 0, got {factor}")

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The parameter groups of a model's trained parameters; those with factor 1 come first.

        The keys of each group: ``params``; ``lr_factor``; ``is_embedding``, whether it holds the
        weights of ``nn.Embedding``; and ``weight_decay``: 0, only in groups without decay.

        Raises:
            ValueError: if a pattern of ``lr_factors`` applies to no parameter.
        """
        embeddings = {id(e.weight) for e in model.modules() if isinstance(e, nn.Embedding)}
        lr_factors = self.lr_factors or {}
        unused = set(lr_factors)
        groups: dict[tuple[bool, bool, float], dict[str, Any]] = {}
        for name, parameter in self._trained(model):
            pattern = next((it for it in lr_factors if fnmatchcase(name, it)), None)
            unused.discard(pattern or "")
            factor = 1.0 if pattern is None else lr_factors[pattern]
            decays = parameter.ndim >= 2 or self.decay_biases_and_norms
            kind = (not decays, id(parameter) in embeddings, factor)
            group = groups.setdefault(
                kind, {"params": [], "is_embedding": kind[1], "lr_factor": factor}
            )
            group["params"].append(parameter)
            if not decays:
                group["weight_decay"] = 0.0
        if unused:
            raise ValueError(f"lr_factors: {', '.join(sorted(unused))} applies to no parameter")
        return [groups[kind] for kind in sorted(groups, key=lambda kind: (kind[2] != 1, kind))]

    @staticmethod
    def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


@dataclass(frozen=True)
class Optimization:
    """How a model is optimized: an optimizer, a learning rate schedule, and parameter groups.

    For example ``Optimization(partial(torch.optim.AdamW, lr=1e-3), Cosine(warmup_steps=100))``.
    """

    optimizer: OptimizerFactory = torch.optim.AdamW
    schedule: Schedule = field(default_factory=Constant)
    parameter_groups: ParameterGroups = field(default_factory=ParameterGroups)

    def create_optimizer(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model's trained parameters.

        Raises:
            ValueError: if the optimizer does not accept these groups or its arguments.
        """
        try:
            optimizer = self.optimizer(self.parameter_groups.groups(model))
        except RuntimeError as error:  # torch raises it for options that exclude each other
            raise ValueError(f"optimizer: {error}") from error
        if "lr" not in optimizer.defaults:
            raise ValueError(f"optimizer: {type(optimizer).__name__} has no lr to schedule")
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_factor"]
        return optimizer
