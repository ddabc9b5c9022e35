"""The dot product and its scaled form."""

from torch import Tensor

from attention_lab.attention.scores.base import DotProductFamily


class DotProduct(DotProductFamily):
    """logits = q · k, unscaled (Luong et al. 2015, eq. 8, "dot")."""

    formula = "q·k"
    paper = "Luong et al. 2015"

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query, key, 1.0


class ScaledDotProduct(DotProductFamily):
    """logits = q · k / √E (Vaswani et al. 2017, §3.2.1).

    For components of unit variance q · k has variance E; the scale keeps it at 1, so that the
    softmax does not saturate as heads get wider (ibid., footnote 4).
    """

    formula = "q·k / √d"
    paper = "Vaswani et al. 2017"

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query, key, self.head_dim**-0.5
