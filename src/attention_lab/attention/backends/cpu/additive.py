"""The logits of additive attention and their gradients by the C code of ``additive.c``."""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention_lab.attention.backends.cpu.c_library import load_c

#: Above it, the exponential of 2x is no normal float.
LARGEST = 43.0


@functools.cache
def compiled_kernels() -> ctypes.CDLL | None:
    """The library of ``additive.c``; None if it cannot be compiled here."""
    return load_c(Path(__file__).with_name("additive.c"))


def usable_kernels(query: Tensor, key: Tensor, vector: Tensor) -> ctypes.CDLL | None:
    """The compiled kernels, if they can compute these tensors exactly."""
    tensors = query, key, vector
    if any(x.device.type != "cpu" or x.dtype != torch.float32 for x in tensors):
        return None
    # Written so that NaN counts as too large. On a CPU, nothing waits for this answer.
    if not all(bool(x.abs().amax() <= LARGEST) for x in (query, key) if x.numel()):
        return None
    return compiled_kernels()


def compiled_logits(kernels: ctypes.CDLL, query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """Logits (N, L, S): see :func:`additive_logits`."""
    sizes = query.shape[0], query.shape[1], key.shape[1], query.shape[2]
    logits = query.new_empty(sizes[:3])
    _call(kernels.additive_logits, sizes, _exp(query), _exp(key.mT), vector.contiguous(), logits)
    return logits


def compiled_gradients(
    kernels: ctypes.CDLL, query: Tensor, key: Tensor, vector: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for query, key and vector from that of the logits (N, L, S)."""
    sizes = query.shape[0], query.shape[1], key.shape[1], query.shape[2]
    inputs = _exp(query.mT), _exp(key.mT), vector.contiguous(), gradient.contiguous()
    grads = torch.zeros_like(inputs[0]), torch.zeros_like(inputs[1]), torch.zeros_like(inputs[2])
    _call(kernels.additive_gradients, sizes, *inputs, *grads)
    return grads[0].mT.contiguous(), grads[1].mT.contiguous(), grads[2]


def _exp(x: Tensor) -> Tensor:
    return (2 * x.contiguous()).exp_()


def _call(function: Any, sizes: tuple[int, ...], *tensors: Tensor) -> None:
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    function(*map(ctypes.c_ssize_t, sizes), *pointers)
