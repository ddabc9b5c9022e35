"""Transformer blocks: feed-forward, self-attention and short convolution."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attention_lab.argument_checks import check_positive
from attention_lab.attention import AttentionLayer, Cache, Mask
from attention_lab.models.base import AttentionFactory, Caches

#: Standard deviation of GPT-2's initial weights.
GPT2_STD = 0.02


def document_ids(positions: Tensor) -> Tensor:
    """The number of each token's document, from 1, (B, L), if one starts at each position 0."""
    return (positions == 0).cumsum(1)


def feed_forward(
    d_model: int, dim_feedforward: int, dropout: float, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Position-wise feed-forward network (Vaswani et al. 2017, §3.3)."""
    return nn.Sequential(
        nn.Linear(d_model, dim_feedforward),
        activation(),
        nn.Dropout(dropout),
        nn.Linear(dim_feedforward, d_model),
    )


def attention_per_layer(
    attention: AttentionFactory, hybrid: Mapping[str, AttentionFactory] | None, num_layers: int
) -> Sequence[AttentionFactory]:
    """The mechanism of each layer: ``hybrid``'s in a cycle if given, else ``attention``.

    Raises:
        ValueError: if there are fewer layers than mechanisms.
    """
    if hybrid and len(hybrid) > num_layers:
        raise ValueError(
            f"{len(hybrid)} mechanisms in turn ({', '.join(hybrid)}) need as many layers, "
            f"got {num_layers}"
        )
    return list(islice(cycle((hybrid or {"all": attention}).values()), num_layers))


def require_causal(attention: AttentionLayer, key: str) -> AttentionLayer:
    """Return the layer; ValueError if it cannot be causal. ``key`` is its config key."""
    if not attention.info.causal:
        raise ValueError(
            f"{type(attention).__name__} cannot be causal, but self-attention in a decoder is; "
            f"use {key}=multi_head (in a hybrid stack, its key there)"
        )
    return attention


class CheckpointedLayer(nn.Module):
    """A layer of a stack that can use gradient checkpointing (Chen et al. 2016).

    Its activations are then computed again in the backward pass instead of being kept, with the
    same random numbers. This takes less memory and more time, and changes no result.
    """

    #: Whether to use gradient checkpointing in training: see :func:`checkpoint_layers`.
    gradient_checkpointing: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **kwargs)
        return super().__call__(*args, **kwargs)


def checkpoint_layers(model: nn.Module) -> None:
    """Use gradient checkpointing in all layers of a model.

    Raises:
        ValueError: if the model has no :class:`CheckpointedLayer`.
    """
    layers = [module for module in model.modules() if isinstance(module, CheckpointedLayer)]
    if not layers:
        raise ValueError(
            f"trainer.gradient_checkpointing: {type(model).__name__} has no stack of layers to "
            "checkpoint; use trainer.gradient_checkpointing=false"
        )
    for layer in layers:
        layer.gradient_checkpointing = True


class ShortConvolution(nn.Module):
    """A causal depthwise convolution, initialized as the identity.

    It precedes attention as in Arora et al. 2023, §4, and Gu & Dao 2023, §3.4.

    Args:
        d_model: number of channels.
        kernel_size: number of positions, the current one included.

    Raises:
        ValueError: if ``kernel_size`` is below 1.
    """

    def __init__(self, d_model: int, kernel_size: int) -> None:
        super().__init__()
        check_positive(kernel_size=kernel_size)
        self.weight = nn.Parameter(torch.zeros(d_model, 1, kernel_size))
        with torch.no_grad():
            self.weight[:, :, -1] = 1.0

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, L, d_model) → (B, L, d_model); a cache holds the preceding positions."""
        d_model, _, kernel_size = self.weight.shape
        before = None if cache is None else cache.tensors.get("inputs")
        padded = (
            F.pad(x, (0, 0, kernel_size - 1, 0)) if before is None else torch.cat([before, x], 1)
        )
        if cache is not None:
            cache.replace({"inputs": padded[:, padded.shape[1] - kernel_size + 1 :]})
        return F.conv1d(padded.mT, self.weight, groups=d_model).mT


class FeedForwardBlock(nn.Module):
    """x + f(norm(x)), where f is a feed-forward network (Xiong et al. 2020)."""

    def __init__(
        self,
        d_model: int,
        dim_feedforward: int,
        dropout: float,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.layers = feed_forward(d_model, dim_feedforward, dropout, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.layers(self.norm(x)))


def feed_forward_block(
    d_model: int, dim_feedforward: int, dropout: float, activation: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """A feed-forward block, or the identity if ``dim_feedforward`` is 0.

    Raises:
        ValueError: if ``dim_feedforward`` is below 0.
    """
    if dim_feedforward < 0:
        raise ValueError(f"dim_feedforward must be at least 0, got {dim_feedforward}")
    return (
        FeedForwardBlock(d_model, dim_feedforward, dropout, activation)
        if dim_feedforward
        else nn.Identity()
    )


class SelfAttentionBlock(CheckpointedLayer):
    """Self-attention and a feed-forward network, each as x + f(norm(x)) (Xiong et al. 2020).

    Args:
        d_model: width of the residual stream.
        attention: the mechanism.
        dim_feedforward: width of the feed-forward network's hidden layer; 0 means no network.
        dropout: probability, on the output of each of them.
        activation: of the feed-forward network.
        conv_kernel_size: positions of a causal convolution before attention; None means none.
    """

    def __init__(
        self,
        d_model: int,
        attention: AttentionLayer,
        dim_feedforward: int,
        dropout: float,
        activation: type[nn.Module] = nn.ReLU,
        conv_kernel_size: int | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.convolution = (
            None if conv_kernel_size is None else ShortConvolution(d_model, conv_kernel_size)
        )
        self.self_attention = attention
        self.feed_forward = feed_forward_block(d_model, dim_feedforward, dropout, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Mask, caches: Caches | None = None, name: str = ""
    ) -> Tensor:
        """(B, L, d_model) → (B, L, d_model); uses the caches under its name."""
        cache = None if caches is None else caches.setdefault(name, Cache())
        mixed = self.attention_norm(x)
        if self.convolution is not None:
            tail = None if caches is None else caches.setdefault(f"{name}.convolution", Cache())
            mixed = self.convolution(mixed, tail)
        x = x + self.dropout(self.self_attention(mixed, mask=mask, cache=cache).output)
        return self.feed_forward(x)


def initialize_as_gpt2(blocks: Iterable[nn.Module]) -> None:
    """Initialize the projections of self-attention blocks as GPT-2 does.

    Weights are N(0, 0.02²) and biases 0. The weights of the N projections that add to the residual
    stream are divided by √N (Radford et al. 2019, §2.3); with feed-forward networks, N is
    2 · num_layers. Other parameters of a mechanism keep their own initialization.
    """
    inner: list[nn.Module] = []
    residual: list[nn.Module] = []
    for block in blocks:
        assert isinstance(block, SelfAttentionBlock)
        attention = block.self_attention
        inner += [attention.query_projection, attention.latent_projection]
        inner += [attention.key_projection, attention.value_projection]
        residual.append(attention.output_projection)
        if isinstance(block.feed_forward, FeedForwardBlock):
            first, *_, last = block.feed_forward.layers
            inner.append(first)
            residual.append(last)
    for projections, std in ((inner, GPT2_STD), (residual, GPT2_STD / len(residual) ** 0.5)):
        for projection in projections:
            if isinstance(projection, nn.Linear):  # some mechanisms have no such projection
                nn.init.normal_(projection.weight, std=std)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)
