"""Implementations of other libraries, each with the layer of ours whose formula it computes."""

from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_lab.benchmarks.implementations import (
    BASELINE,
    Implementation,
    Setting,
    Skipped,
    make_layer,
)

SDPA = "torch SDPA"
#: The implementations that the others are compared with: those without and with projections.
BASELINES = {False: SDPA, True: f"{SDPA} + projections"}


def peers(setting: Setting) -> Iterator[Implementation | Skipped]:
    """The implementations of all libraries that are installed."""
    yield from torch_sdpa(setting)


def torch_sdpa(setting: Setting) -> Iterator[Implementation]:
    """PyTorch's scaled dot-product attention, as it chooses and on each of its backends."""
    layer = make_layer(BASELINE, setting, "eager")

    def call(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)

    def restricted(
        backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor, causal: bool
    ) -> Tensor:
        with sdpa_kernel(backend):
            return call(query, key, value, causal)

    yield Implementation(SDPA, call, layer)
    names = {"MATH": "math", "FLASH_ATTENTION": "flash"}
    if setting.device == "cuda":
        names |= {"EFFICIENT_ATTENTION": "efficient", "CUDNN_ATTENTION": "cuDNN"}
    for backend, name in names.items():
        kernel = partial(restricted, getattr(SDPBackend, backend))
        yield Implementation(f"{SDPA} {name}", kernel, layer, is_eager=name == "math")
