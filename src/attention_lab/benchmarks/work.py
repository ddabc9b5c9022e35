"""Count what a mechanism must at least do, from its reference backend on the meta device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from attention_lab.benchmarks.ceilings import Work

_aten = torch.ops.aten
#: Functions that processors compute by special units or by polynomials.
SPECIAL = {
    *(_aten.exp.default, _aten.tanh.default, _aten.sigmoid.default, _aten._softmax.default),
    *(_aten.elu.default, _aten.cos.default, _aten.sin.default, _aten.log.default),
    _aten._safe_softmax.default,
}


class OperationCounter(TorchDispatchMode):
    """Counts operations of matrix products and special functions, and finds the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.specials = 0
        #: Bytes.
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=made)
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        if func in SPECIAL:
            self.specials += made.numel()
        return made


def count(call: Callable[[], object], moved: int) -> tuple[Work, int]:
    """The work of a call on the meta device, and the bytes of the largest tensor that it makes.

    Args:
        call: the call.
        moved: bytes of its inputs, outputs and gradients.
    """
    with OperationCounter() as counted:
        call()
    return Work(counted.flops, moved, counted.specials), counted.largest
