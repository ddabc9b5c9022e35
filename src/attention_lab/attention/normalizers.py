"""Normalizers: logits (B, H, L, S) → weights over the keys.

The caller sets the logits of hidden keys to the lowest finite number, and afterwards their weights
to 0. A normalizer needs the mask only if it counts the visible keys.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_positive
from attention_lab.attention.precision import wide


class Normalizer(nn.Module, ABC):
    """Turns one query's logits over its keys (the last dimension) into weights ≥ 0."""

    #: weights = …, and who published it.
    formula: ClassVar[str]
    paper: ClassVar[str]
    #: Whether the weights of a query with visible keys sum to 1.
    sums_to_one: ClassVar[bool] = True
    #: Whether a visible key may have weight 0.
    sparse: ClassVar[bool] = False
    #: Whether only logits above 0 get weight.
    needs_positive: ClassVar[bool] = False

    @abstractmethod
    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        """Weights (B, H, L, S).

        Args:
            logits: (B, H, L, S), S ≥ 1.
            visible: which keys each query may attend to, bool, broadcastable to the logits' shape;
                None means all.
        """


class Softmax(Normalizer):
    """weights = exp(l) / Σ exp(l) (Vaswani et al. 2017, eq. 1)."""

    formula = "softmax"
    paper = "Vaswani et al. 2017"

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        return logits.softmax(dim=-1)


class TemperedSoftmax(Normalizer):
    """weights = softmax(l / T).

    Args:
        temperature: T; smaller values make the weights sharper.
        learned: whether T is trained (as its logarithm, so that it stays positive).

    Raises:
        ValueError: if the temperature is not positive.
    """

    formula = "softmax(l / T)"
    paper = "Hinton et al. 2015"

    def __init__(self, temperature: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        log = torch.tensor(temperature).log()
        if learned:
            self.log_temperature = nn.Parameter(log)
        else:
            self.register_buffer("log_temperature", log)

    def inverse(self) -> Tensor:
        """1 / T, in single or double precision."""
        return (-self.log_temperature).exp()

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        z = wide(logits)
        shifted = z - z.amax(-1, keepdim=True).detach()
        hidden = torch.zeros_like(z, dtype=torch.bool) if visible is None else ~visible
        # Hidden keys are scaled as 0: with their huge logits, T's second derivative would overflow.
        scaled = shifted.masked_fill(hidden, 0.0) * self.inverse()
        weights = scaled.masked_fill(hidden, torch.finfo(z.dtype).min).softmax(dim=-1)
        return weights.to(logits.dtype)


class SoftmaxPlusOne(Normalizer):
    """weights = exp(l) / (1 + Σ exp(l)): a query may attend to no key (Miller 2023)."""

    formula = "exp(l) / (1 + Σ exp(l))"
    paper = "Miller 2023"
    sums_to_one = False

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        # The 1 is one more key, with logit 0 and value 0.
        silent = torch.zeros_like(logits[..., :1])
        return torch.cat([logits, silent], dim=-1).softmax(dim=-1)[..., :-1]


class Sigmoid(Normalizer):
    """weights = sigmoid(l − log n) for n visible keys, independently (Ramapuram et al. 2025)."""

    formula = "sigmoid(l − log n)"
    paper = "Ramapuram et al. 2025"
    sums_to_one = False

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        return torch.sigmoid(logits - _count(logits, visible).log())


class ReLU(Normalizer):
    """weights = max(l, 0) / n for n visible keys (Wortsman et al. 2023, §3)."""

    formula = "relu(l) / n"
    paper = "Wortsman et al. 2023"
    sums_to_one = False
    sparse = True
    needs_positive = True

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        return logits.relu() / _count(logits, visible)


class Sparsemax(Normalizer):
    """The distribution nearest to the logits: max(l − τ, 0) (Martins & Astudillo 2016, eq. 1)."""

    formula = "sparsemax"
    paper = "Martins & Astudillo 2016"
    sparse = True

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        z = wide(logits)
        # τ ≥ max − 1, so nothing below that matters, however low.
        z = (z - z.amax(-1, keepdim=True)).clamp(min=-1)
        with torch.no_grad():
            ordered = z.sort(dim=-1, descending=True).values
            rank = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
            above = 1 + rank * ordered > ordered.cumsum(-1)
            size = above.sum(-1, keepdim=True)
            threshold = ((ordered * above).sum(-1, keepdim=True) - 1) / size
            support = z > threshold
        # Computed again, now with gradients: τ depends on the logits of the support.
        threshold = ((z * support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
        return ((z - threshold) * support).to(logits.dtype)


class Entmax15(Normalizer):
    """1.5-entmax, between softmax and sparsemax: max(l/2 − τ, 0)² (Peters et al. 2019, §3)."""

    formula = "1.5-entmax"
    paper = "Peters et al. 2019"
    sparse = True

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        z = wide(logits)
        z = ((z - z.amax(-1, keepdim=True)) / 2).clamp(min=-1)
        with torch.no_grad():
            support = z > self._threshold(z)
        # τ in closed form from the logits of the support: all its derivatives are exact.
        size = support.sum(-1, keepdim=True)
        mean = (z * support).sum(-1, keepdim=True) / size
        deviation = (z - mean) * support
        distance = ((1 - deviation.square().sum(-1, keepdim=True)) / size).sqrt()
        return ((deviation + distance) * support).square().to(logits.dtype)

    @staticmethod
    def _threshold(z: Tensor) -> Tensor:
        """τ with Σ max(z − τ, 0)² = 1, from the sorted logits (ibid., algorithm 2)."""
        ordered = z.sort(dim=-1, descending=True).values
        size = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
        mean = ordered.cumsum(-1) / size
        variance = ordered.square().cumsum(-1) / size - mean.square()
        candidates = mean - ((1 - size * variance) / size).clamp(min=0).sqrt()
        support = (candidates <= ordered).sum(-1, keepdim=True)
        return candidates.gather(-1, support - 1)


class TopK(Normalizer):
    """softmax over the k largest logits, and 0 for the others (Gupta et al. 2021).

    Args:
        k: number of keys with a weight above 0; among equal logits, the first ones.

    Raises:
        ValueError: if k is below 1.
    """

    formula = "softmax of the k largest"
    paper = "Gupta et al. 2021"
    sparse = True

    def __init__(self, k: int = 8) -> None:
        super().__init__()
        check_positive(k=k)
        self.k = k

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        # torch.topk does not define which of equal logits it takes.
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        # A mask, not a slice, so that torch.export can keep the length dynamic.
        dropped = torch.arange(logits.shape[-1], device=logits.device) >= self.k
        largest = ordered.masked_fill(dropped, torch.finfo(logits.dtype).min)
        return torch.zeros_like(logits).scatter(-1, order, largest.softmax(dim=-1))


def _count(logits: Tensor, visible: Tensor | None) -> Tensor:
    """The number of visible keys of each query, (…, L, 1), in the logits' dtype; at least 1."""
    if visible is None:
        return logits.new_full((), logits.shape[-1])  # made on the device: no copy to wait for
    keys = visible.expand(*visible.shape[:-1], logits.shape[-1])
    return keys.sum(-1, keepdim=True).clamp(min=1).to(logits.dtype)
