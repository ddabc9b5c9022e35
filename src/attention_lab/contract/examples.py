"""Inputs of the contract's checks, and the outputs, weights and gradients for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from attention_lab.attention import AttentionInputs, AttentionLayer, Causal, Mask, Padding


class Example(NamedTuple):
    """A tensor-level input, and which keys each query may attend to."""

    query: Tensor  # (B, H, L, E)
    key: Tensor  # (B, H_kv, S, E)
    value: Tensor  # (B, H_kv, S, E_v)
    mask: Mask | None
    visible: Tensor  # (B, H, L, S) bool, by the definition of the mask, not by its code

    @property
    def empty(self) -> Tensor:
        """(B, H, L) bool: the queries without visible keys."""
        return ~self.visible.any(-1)


MASKS = ("none", "causal", "padding", "causal-and-padding")
MASKS_WITH_EMPTY_ROWS = ("padding", "causal-and-padding")


def example(
    mask: str = "none",
    *,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    queries: int = 3,
    keys: int = 5,
    head_dim: int = 3,
    value_dim: int = 2,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Example:
    """A random example of batch size 3 under one of ``MASKS``.

    With padding, sequence 0 is padded on the right, 1 on the left (so that, with a causal mask, its
    first query has no visible key), and 2 has no real key at all.
    """
    valid = torch.ones(3, keys, dtype=torch.bool)
    if "padding" in mask:
        valid[0, -1] = False
        valid[1, 0] = False
        valid[2, :] = False
    visible = torch.empty(3, num_heads, queries, keys, dtype=torch.bool)
    for position in range(queries):
        for other in range(keys):
            allowed = other <= position or "causal" not in mask
            visible[:, :, position, other] = valid[:, other, None] & allowed
    padding, visible = Padding(valid.to(device)), visible.to(device)
    by_name = {
        "none": None,
        "causal": Causal(),
        "padding": padding,
        "causal-and-padding": Causal() & padding,
    }
    return Example(
        torch.randn(3, num_heads, queries, head_dim, dtype=dtype, device=device),
        torch.randn(3, num_kv_heads, keys, head_dim, dtype=dtype, device=device),
        torch.randn(3, num_kv_heads, keys, value_dim, dtype=dtype, device=device),
        by_name[mask],
        visible,
    )


def device_of(layer: AttentionLayer) -> torch.device:
    """The device of the layer's parameters; the CPU if it has none."""
    return next(layer.parameters(), torch.empty(0)).device


def sequence_for(layer: AttentionLayer, length: int, width: int | None = None) -> Tensor:
    """A random batch (2, length, embed_dim or another width) on the layer's device."""
    width = layer.embed_dim if width is None else width
    return torch.randn(2, length, width, dtype=torch.float64, device=device_of(layer))


def mechanism_parameters(layer: AttentionLayer) -> list[Tensor]:
    """The parameters that ``attend`` uses: all but the projections."""
    return [p for name, p in layer.named_parameters() if "_projection" not in name]


def output_of(layer: AttentionLayer, it: Example) -> Tensor:
    return layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, False))[0]


def weights_of(layer: AttentionLayer, it: Example) -> Tensor:
    weights = layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, True))[1]
    assert weights is not None, "need_weights is true, but no weights were returned"
    return weights


def with_gradients(it: Example) -> Example:
    query, key, value = (x.detach().clone().requires_grad_() for x in it[:3])
    return it._replace(query=query, key=key, value=value)


def gradients(output: Tensor, layer: AttentionLayer, it: Example) -> list[Tensor]:
    """Gradients of ``output`` to query, key, value and the parameters; zeros where unused."""
    inputs = [*it[:3], *mechanism_parameters(layer)]
    return list(torch.autograd.grad(output, inputs, retain_graph=True, materialize_grads=True))


def per_query_head(x: Tensor, num_heads: int) -> Tensor:
    """(B, H, S, E) from (B, H_kv, S, E): neighbouring query heads share one."""
    return x.repeat_interleave(num_heads // x.shape[1], dim=1)


@contextmanager
def training(layer: AttentionLayer) -> Iterator[None]:
    layer.train()
    try:
        yield
    finally:
        layer.eval()
