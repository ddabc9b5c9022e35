"""Muon for the matrices of a network, AdamW for all its other parameters."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim import Muon as MatrixMuon


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for matrices, and AdamW for everything else.

    Muon makes the update of a matrix nearly orthogonal. Embeddings and parameters with one, three
    or more dimensions have no such update and are optimized by AdamW. Both are one optimizer with
    one state, so they share a schedule and a checkpoint.

    Args:
        params: parameters, or groups of them. AdamW optimizes groups with ``is_embedding``.
        lr: the learning rate of both.
        weight_decay: decoupled weight decay of both.
        momentum: momentum of Muon.
        nesterov: whether Muon's momentum is Nesterov's.
        ns_steps: Newton–Schulz iterations, which orthogonalize the update.
        adjust_lr_fn: how Muon's learning rate depends on a matrix's shape; with "match_rms_adamw"
            (Liu et al. 2025, §2.2) both optimizers can share one learning rate.
        betas: decay rates of AdamW's first and second moment.
        eps: AdamW's ε.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        groups: list[Any] = list(params)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        super().__init__(
            [part for group in groups for part in _split(group)],
            {"lr": lr, "weight_decay": weight_decay},
        )
        matrices, others = self._groups(True), self._groups(False)
        self._parts: list[tuple[bool, Optimizer]] = []
        if matrices:
            muon = MatrixMuon(
                matrices,
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=ns_steps,
                adjust_lr_fn=adjust_lr_fn,
            )
            self._parts.append((True, muon))
        if others:
            self._parts.append((False, AdamW(others, lr, betas, eps, weight_decay)))
        self._share()

    def _groups(self, is_matrix: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["is_matrix"] == is_matrix]

    def _share(self) -> None:
        """Let both parts work on the groups and the state of this optimizer."""
        for is_matrix, part in self._parts:
            part.param_groups = self._groups(is_matrix)
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]  # torch says float
        """Take a step; ``closure`` computes the loss and the gradients before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for _, part in self._parts:
            part.step()
        return loss


def _split(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The group of the matrices and that of the other parameters, if there are any."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in group["params"]:
        is_matrix = parameter.ndim == 2 and not group.get("is_embedding", False)
        (matrices if is_matrix else others).append(parameter)
    if matrices:
        yield group | {"params": matrices, "is_matrix": True}
    if others:
        yield group | {"params": others, "is_matrix": False}
