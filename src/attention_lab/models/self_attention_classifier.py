"""A classifier with a single self-attention layer."""

import torch
from torch import Tensor, nn

from attention_lab.argument_checks import check_dropout, check_positive
from attention_lab.models.base import AttentionFactory, ClassificationNetwork


class SelfAttentionClassifier(ClassificationNetwork):
    """Embedding with learned positions, one self-attention layer, mean pooling, linear classifier.

    The only other nonlinearity is the ReLU of the embedding, so positions interact through
    attention alone.

    Args:
        in_features: width of the input vectors.
        num_classes: number of classes.
        max_length: number of input vectors.
        self_attention: creates the attention layer.
        d_model: width of the embedding.
        dropout: probability, on the embedding and before the classifier.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        max_length: int,
        *,
        self_attention: AttentionFactory,
        d_model: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(d_model=d_model)
        check_dropout(dropout)
        self.embedding = nn.Linear(in_features, d_model)
        nn.init.kaiming_normal_(self.embedding.weight, nonlinearity="relu")
        self.positions = nn.Parameter(torch.randn(max_length, d_model))
        self.self_attention = self_attention(d_model, d_model)
        self.classifier = nn.Linear(d_model, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.dropout(torch.relu(self.embedding(inputs) + self.positions))
        x = self.self_attention(x).output.mean(dim=1)
        return self.classifier(self.dropout(x))

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {"self_attention": ("input", "input")}
