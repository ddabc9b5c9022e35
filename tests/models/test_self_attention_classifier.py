"""The classifier made of one attention layer."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from attention_lab.attention import ScaledDotProduct, ScoredAttention, Softmax
from attention_lab.models.base import AttentionFactory
from attention_lab.models.self_attention_classifier import SelfAttentionClassifier

ATTENTION: AttentionFactory = partial(
    ScoredAttention, score=ScaledDotProduct, normalizer=Softmax, num_heads=2
)


def classifier(width: int = 16, dropout: float = 0.0) -> SelfAttentionClassifier:
    return SelfAttentionClassifier(
        5, 3, 7, self_attention=ATTENTION, d_model=width, dropout=dropout
    ).eval()


def test_logits_are_those_of_the_docstring() -> None:
    model, inputs = classifier(), torch.randn(4, 7, 5)
    embedded = torch.relu(
        inputs @ model.embedding.weight.T + model.embedding.bias + model.positions
    )
    attended = model.self_attention(embedded).output
    logits = attended.sum(1) / 7 @ model.classifier.weight.T + model.classifier.bias
    assert logits.shape == (4, 3)
    assert_close(model(inputs), logits)


def test_each_example_is_alone_and_every_position_counts() -> None:
    model, inputs = classifier(), torch.randn(2, 7, 5)
    before = model(inputs)
    for position in range(7):
        changed = inputs.clone()
        changed[0, position] += 1
        after = model(changed)
        assert (after[0] - before[0]).abs().max() > 1e-6
        assert_close(after[1], before[1])


def test_order_matters() -> None:
    model, inputs = classifier(), torch.randn(2, 7, 5)
    assert (model(inputs) - model(inputs.flip(1))).abs().max() > 1e-4


def test_dropout_is_off_in_eval_and_on_in_training() -> None:
    model, inputs = classifier(dropout=0.5), torch.randn(2, 7, 5)
    assert torch.equal(model(inputs), model(inputs))
    model.train()
    assert not torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize(
    ("width", "dropout", "message"),
    [
        (0, 0.0, "d_model must be at least 1, got 0"),
        (16, 1.0, r"dropout must be in \[0, 1\), got 1.0"),
        (16, -0.5, r"dropout must be in \[0, 1\), got -0.5"),
    ],
)
def test_it_refuses(width: int, dropout: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(width, dropout)
