"""Luong's concat score."""

import torch
from torch import nn

from attention_lab.attention.scores.additive import Additive


class Concat(Additive):
    """logits = v · tanh(W [q; k]) (Luong et al. 2015, eq. 8, "concat").

    This is the additive score with W = [W_q, W_k], initialized as one matrix.
    """

    formula = "v·tanh(W [q; k])"
    paper = "Luong et al. 2015"

    def reset_parameters(self) -> None:
        """Xavier-uniform W (2E → A), and v with variance 1/A."""
        super().reset_parameters()
        for query, key in zip(self.query_weight, self.key_weight, strict=True):
            joint = nn.init.xavier_uniform_(torch.cat([query.detach(), key.detach()]))
            query.data, key.data = joint.chunk(2)
