"""Record attention weights without changing the model that computes them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from attention_lab.attention.layer import AttentionLayer


def attention_layers(model: nn.Module) -> dict[str, AttentionLayer]:
    """Every attention layer of a model by its module name, in the model's order."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, AttentionLayer)
    }


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the weights (B, H, L, S) of every call of each attention layer, by layer name.

    Weights are computed inside this context only; outside it they cost nothing. In step-by-step
    decoding, a layer is called once for each step.

    Example:
        >>> with record_attention(model) as weights:
        ...     model(source, target)
        >>> weights["decoder.0.cross_attention"][0].shape
    """
    layers = attention_layers(model)
    calls: dict[str, list[Tensor]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.weight_hooks.append(calls[name].append)
    try:
        yield calls
    finally:
        for layer in layers.values():
            layer.weight_hooks.pop()
