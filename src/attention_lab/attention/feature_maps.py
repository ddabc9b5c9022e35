"""Feature maps φ of kernel attention, in which a weight is φ(q)·φ(k)."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_positive
from attention_lab.attention.linear_algebra import random_rotation


class Features(NamedTuple):
    """φ(x) = values · exp(log_scale), which alone could under- or overflow."""

    values: Tensor  #: (B, H, L, F)
    log_scale: Tensor | None = None  #: (B, H, L, 1); None means 0


class FeatureMap(nn.Module, ABC):
    """Non-negative features of one head's queries and keys.

    Args:
        head_dim: size of one head, E.
    """

    formula: ClassVar[str]
    paper: ClassVar[str]

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        check_positive(head_dim=head_dim)
        self.head_dim = head_dim

    @abstractmethod
    def forward(self, x: Tensor, is_query: bool) -> Features:
        """Features of (B, H, L, E).

        A positive factor of a query's features cancels, so their ``log_scale`` is ignored. The
        ``log_scale`` of keys is used if it is not None.
        """


class EluPlusOne(FeatureMap):
    """φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, eq. 7)."""

    formula = "elu(x) + 1"
    paper = "Katharopoulos et al. 2020"

    def forward(self, x: Tensor, is_query: bool) -> Features:
        above = x.relu()
        below = x - above  # min(x, 0), whose gradient costs less than that of clamp
        if is_query:  # far below 0 every feature would vanish; the factor e^−max cancels
            below = below - below.amax(-1, keepdim=True).detach()
        # Not elu: the largest is now 0, where elu's second derivative is that of its upper branch.
        return Features(above + below.exp())


class PositiveRandomFeatures(FeatureMap):
    """FAVOR+: φ(q)·φ(k) is exp(q·k / √E) on average (Choromanski et al. 2021, lemma 1).

    The random directions are orthogonal in blocks of E (ibid., §2.4), drawn once at initialization
    and kept in the state. The features of each vector are divided by the largest of them, so that
    those of long keys or queries do not underflow. The products of a long query and a long key of
    opposite direction may: in single precision, from a length of about 14·E^¼. A query for which
    all visible keys are such gets an output of 0.

    Args:
        head_dim: size of one head.
        num_features: number of random directions; the error falls with their square root.

    Raises:
        ValueError: if a size is below 1.
    """

    formula = "exp(ωx − |x|²/2)"
    paper = "Choromanski et al. 2021"

    def __init__(self, head_dim: int, num_features: int = 128) -> None:
        super().__init__(head_dim)
        check_positive(num_features=num_features)
        blocks = [random_rotation(head_dim) for _ in range(-(-num_features // head_dim))]
        norms = torch.randn(num_features, head_dim).norm(dim=1, keepdim=True)
        self.register_buffer("directions", torch.cat(blocks)[:num_features] * norms)
        self.directions: Tensor

    def forward(self, x: Tensor, is_query: bool) -> Features:
        x = x * self.head_dim**-0.25
        exponent = x @ self.directions.to(x.dtype).mT
        largest = exponent.amax(-1, keepdim=True).detach()
        if is_query:
            return Features(self._exp(exponent - largest))
        half = (x.square().sum(-1, keepdim=True) / 2).clamp(max=-lowest(x) / 4)
        # The scale is a constant: half − half.detach() is 0, with the gradient of |x|²/2.
        scale = largest - half.detach()
        return Features(self._exp(exponent - (largest + (half - half.detach()))), scale)

    def _exp(self, exponent: Tensor) -> Tensor:
        return exponent.exp() / len(self.directions) ** 0.5


def lowest(x: Tensor) -> float:
    """The lowest finite number, in place of log 0: unlike −∞, it minus itself is 0."""
    return torch.finfo(x.dtype).min
