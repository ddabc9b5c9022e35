"""A Transformer encoder that classifies vectors or tokens."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from attention_lab.attention import KernelAttention, ScoredAttention
from attention_lab.models.encoder_classifier import EncoderClassifier
from tests.models.conftest import ATTENTION
from tests.models.test_decoder import LINEAR, ROTARY

TOKENS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0], [4, 0, 0, 0, 0]])


def model(**options: Any) -> EncoderClassifier:
    sizes = {"vocab_size": 11, "d_model": 16, "self_attention": ATTENTION, **options}
    return EncoderClassifier(4, 5, **sizes).double().eval()


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_padding_changes_nothing(pooling: str) -> None:
    made = model(pooling=pooling)
    logits = made(TOKENS)
    assert logits.shape == (3, 4)
    wide = torch.cat([TOKENS, TOKENS.new_zeros(3, 4)], dim=1)
    assert_close(made(wide), logits)
    assert_close(made(TOKENS[1:2, :3]), logits[1:2])
    with torch.no_grad():
        made.embedding.weight[0] = 100.0
    assert_close(made(wide), logits)


@pytest.mark.parametrize("options", [{"positions": "learned"}, {"positions": "sinusoidal"}])
def test_order_matters_with_positions_only(options: dict[str, Any]) -> None:
    turned, made = TOKENS[:1].flip(1), model(**options)
    assert not torch.allclose(made(turned), made(TOKENS[:1]))
    without = model(positions="none")
    assert_close(without(turned), without(TOKENS[:1]))


def test_the_first_position_or_the_mean_is_read() -> None:
    made = model(pooling="first", num_layers=1)
    mean = model(pooling="mean", num_layers=1)
    mean.load_state_dict(made.state_dict())
    one = TOKENS[2:, :1]
    assert_close(made(one), mean(one))
    assert not torch.allclose(made(TOKENS[:1]), mean(TOKENS[:1]))


def test_vectors_are_read_whole() -> None:
    made = EncoderClassifier(4, 5, in_features=3, d_model=16, self_attention=ATTENTION).eval()
    vectors = torch.randn(2, 5, 3)
    before = made(vectors)
    for position in range(5):
        changed = vectors.clone()
        changed[:, position] += 1
        assert (made(changed) - before).abs().max() > 1e-6


def test_a_hybrid_stack_takes_its_mechanisms_in_turn() -> None:
    layers = model(hybrid={"a": LINEAR, "b": ROTARY}, num_layers=3).layers
    kinds = [type(layer.self_attention) for layer in layers]
    assert kinds == [KernelAttention, ScoredAttention, KernelAttention]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": None}, "give either in_features"),
        ({"in_features": 3}, "give either in_features"),
        ({"pooling": "last"}, "pooling must be mean or first"),
        ({"positions": "rotary"}, "positions must be"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"dim_feedforward": -1}, "dim_feedforward must be at least 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**options)
