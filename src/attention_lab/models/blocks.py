"""What Transformer stacks are made of: layers that add to a residual stream."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_lab.attention import AttentionLayer, Cache, Mask
from attention_lab.attention.validation import check_positive
from attention_lab.models.protocol import AttentionFactory, Past

#: Standard deviation of GPT-2's weights at the beginning.
GPT2_STD = 0.02


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


def in_turn(
    attention: AttentionFactory, hybrid: Mapping[str, AttentionFactory] | None, num_layers: int
) -> Sequence[AttentionFactory]:
    """The mechanism of each layer: those of a hybrid stack in turn, or one for all.

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
    """The layer itself; ValueError, which tells how to choose another, if it cannot be causal."""
    if not attention.capabilities.causal:
        raise ValueError(
            f"{type(attention).__name__} cannot be causal, as self-attention in a decoder must be; "
            f"give it another: {key}=multi_head (in a hybrid stack, by its name there)"
        )
    return attention


class ShortConvolution(nn.Module):
    """A causal convolution of each channel by itself, over the last few positions.

    Starts as the identity. (Before the mixer: Arora et al. 2023, §4; Gu & Dao 2023, §3.4.)

    Args:
        d_model: number of channels.
        kernel: number of positions, the own included.

    Raises:
        ValueError: if ``kernel`` is below 1.
    """

    def __init__(self, d_model: int, kernel: int) -> None:
        super().__init__()
        check_positive(kernel=kernel)
        self.weight = nn.Parameter(torch.zeros(d_model, 1, kernel))
        with torch.no_grad():
            self.weight[:, :, -1] = 1.0

    def forward(self, x: Tensor, past: Cache | None = None) -> Tensor:
        """(B, L, d_model) → (B, L, d_model), with the positions before it from the past."""
        d_model, _, kernel = self.weight.shape
        before = None if past is None else past.tensors.get("inputs")
        whole = F.pad(x, (0, 0, kernel - 1, 0)) if before is None else torch.cat([before, x], 1)
        if past is not None:
            past.replace({"inputs": whole[:, whole.shape[1] - kernel + 1 :]})
        return F.conv1d(whole.mT, self.weight, groups=d_model).mT


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
    """A feed-forward block; where ``dim_feedforward`` is 0, nothing.

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


class SelfAttentionBlock(nn.Module):
    """Self-attention and a feed-forward network, each as x + f(norm(x)) (Xiong et al. 2020).

    Args:
        d_model: of the residual stream.
        attention: the mechanism.
        dim_feedforward: width of the feed-forward network's hidden layer; 0 means no network.
        dropout: probability, on what each of them adds.
        activation: of the feed-forward network.
        convolution: kernel of a causal convolution before attention; None means none.
    """

    def __init__(
        self,
        d_model: int,
        attention: AttentionLayer,
        dim_feedforward: int,
        dropout: float,
        activation: type[nn.Module] = nn.ReLU,
        convolution: int | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.convolution = None if convolution is None else ShortConvolution(d_model, convolution)
        self.self_attention = attention
        self.feed_forward = feed_forward_block(d_model, dim_feedforward, dropout, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Mask, past: Past | None = None, name: str = "") -> Tensor:
        """(B, L, d_model) → (B, L, d_model); in a past it keeps what it needs under its name."""
        seen = None if past is None else past.setdefault(name, Cache())
        mixed = self.attention_norm(x)
        if self.convolution is not None:
            tail = None if past is None else past.setdefault(f"{name}.convolution", Cache())
            mixed = self.convolution(mixed, tail)
        x = x + self.dropout(self.self_attention(mixed, mask=mask, cache=seen).output)
        return self.feed_forward(x)


def initialize_as_gpt2(blocks: Iterable[nn.Module]) -> None:
    """Initialize the projections of self-attention blocks as GPT-2 does.

    Weights are N(0, 0.02²) and biases 0. Those of the N projections that add to the residual stream
    are divided by √N (Radford et al. 2019, §2.3); with feed-forward networks N is 2 · num_layers.
    Parameters of a mechanism other than the projections of every attention layer keep their own
    initialization.
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
            if isinstance(projection, nn.Linear):  # some mechanisms do without
                nn.init.normal_(projection.weight, std=std)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)
