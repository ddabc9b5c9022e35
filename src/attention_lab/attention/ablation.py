"""Switch off single heads of a model, without changing the model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from attention_lab.attention.layer import AttentionLayer


@contextmanager
def head_ablated(layer: AttentionLayer, head: int) -> Iterator[None]:
    """In this context, the output of one head is 0 before the heads are merged.

    This is the head mask ξ_h = 0 of Michel et al. 2019 ("Are sixteen heads really better than
    one?").

    Raises:
        IndexError: if the layer has no such head.
    """
    if not 0 <= head < layer.num_heads:
        raise IndexError(f"head {head} of {layer.num_heads}")

    def ablate(projection: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (merged,) = inputs  # (B, L, H · E)
        heads = merged.unflatten(-1, (layer.num_heads, -1)).clone()
        heads[..., head, :] = 0
        return (heads.flatten(-2),)

    handle = layer.output_projection.register_forward_pre_hook(ablate)
    try:
        yield
    finally:
        handle.remove()
