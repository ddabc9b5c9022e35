"""The logits of additive attention and their gradients by the C code of ``additive.c``."""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.attention.backends.cpu.c_library import load_c

#: Beyond it, the exponential of 2x is no normal float.
LARGEST = 43.0
#: The C code takes hidden sizes that are multiples of this.
MULTIPLE = 16


@functools.cache
def compiled_kernels() -> ctypes.CDLL | None:
    """The library of ``additive.c``; None if it cannot be compiled here."""
    return load_c(Path(__file__).with_name("additive.c"))


def usable_kernels(query: Tensor, key: Tensor, vector: Tensor) -> ctypes.CDLL | None:
    """The compiled kernels, if they can compute these tensors exactly."""
    tensors = query, key, vector
    if any(x.device.type != "cpu" or x.dtype != torch.float32 for x in tensors):
        return None
    # Reading values is cheap on a CPU: there is no device to wait for.
    if not all(_in_range(x) for x in (query, key) if x.numel()):
        return None
    return compiled_kernels()


def compiled_logits(kernels: ctypes.CDLL, query: Tensor, key: Tensor, vector: Tensor) -> Tensor:
    """Logits (N, L, S): see :func:`additive_logits`."""
    inputs = _exp(query), _exp(key), _padded(vector)
    logits = query.new_empty(query.shape[0], query.shape[1], key.shape[1])
    _call(kernels.additive_logits, logits.shape, *inputs, logits)
    return logits


def compiled_gradients(
    kernels: ctypes.CDLL, query: Tensor, key: Tensor, vector: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for query, key and vector from that of the logits (N, L, S)."""
    inputs = _exp(query), _exp(key), _padded(vector)
    grads = [torch.zeros_like(x) for x in inputs]
    _call(kernels.additive_gradients, gradient.shape, *inputs, gradient.contiguous(), *grads)
    query, key, vector = (grad[..., : vector.shape[-1]].contiguous() for grad in grads)
    return query, key, vector


def _in_range(x: Tensor) -> bool:
    low, high = torch.aminmax(x)
    return float(low) >= -LARGEST and float(high) <= LARGEST  # false for NaN


def _exp(x: Tensor) -> Tensor:
    """exp(2x), padded."""
    return (2 * _padded(x)).exp_()


def _padded(x: Tensor) -> Tensor:
    """A contiguous tensor whose last dimension is padded with zeros to a multiple."""
    missing = -x.shape[-1] % MULTIPLE
    return F.pad(x, (0, missing)) if missing else x.contiguous()


def _call(function: Any, logits: torch.Size, *tensors: Tensor) -> None:
    """Call a C function with N, L, S, the padded hidden size, and the tensors."""
    sizes = (*logits, tensors[0].shape[-1])
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    function(*map(ctypes.c_ssize_t, sizes), *pointers)
