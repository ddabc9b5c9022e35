"""Single precision where half precision is not enough."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def wide(x: Tensor) -> Tensor:
    """Convert half-precision tensors to float32; leave others unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def masked_softmax(logits: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the last dimension; zeros, with zero gradient, for rows without visible keys."""
    hidden, lowest = ~visible, torch.finfo(logits.dtype).min
    return logits.masked_fill(hidden, lowest).softmax(-1).masked_fill(hidden, 0.0)


def is_autocast_enabled(device: str) -> bool:
    """Whether a kind of device, such as "cuda", is in autocast; the meta device never is."""
    # torch.amp.is_autocast_available cannot be compiled with torch 2.11.
    return device != "meta" and torch.is_autocast_enabled(device)


def autocast_disabled(device: str) -> AbstractContextManager[Any]:
    """A context without autocast for a kind of device."""
    if not is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def without_autocast(method: Function) -> Function:
    """Decorate a method of (query, …) or (inputs, …) to run without autocast."""

    @functools.wraps(method)
    def run(self: Any, query: Any, *arguments: Any, **named: Any) -> Any:
        with autocast_disabled(query.device.type):
            return method(self, query, *arguments, **named)

    return cast("Function", run)
