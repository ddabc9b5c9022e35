"""Small models of every kind, around whatever attention a test wants."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_lab.attention import Additive, ScoredAttention, Softmax
from attention_lab.models.base import (
    AttentionFactory,
    EncoderDecoderNetwork,
    SequenceToSequenceNetwork,
)
from attention_lab.models.encoder_decoder import EncoderDecoder
from attention_lab.models.prefix_decoder import PrefixDecoder
from attention_lab.models.recurrent_encoder_decoder import RecurrentEncoderDecoder

PAD, START, END = 0, 1, 2
SOURCE_VOCABULARY, TARGET_VOCABULARY = 11, 13

#: Attention with weights of its own and some heads, as its users would configure it.
ATTENTION: AttentionFactory = partial(
    ScoredAttention, score=Additive, normalizer=Softmax, num_heads=2, projections="values"
)

MakeModel = Callable[..., EncoderDecoderNetwork]
MakeNetwork = Callable[..., SequenceToSequenceNetwork]


def transformer(attention: AttentionFactory = ATTENTION, **options: Any) -> EncoderDecoder:
    """A Transformer with two layers a side, in eval mode."""
    sizes = {"d_model": 16, "dim_feedforward": 24, **options}
    return EncoderDecoder(
        SOURCE_VOCABULARY, TARGET_VOCABULARY, cross_attention=attention, **sizes
    ).eval()


def recurrent(attention: AttentionFactory = ATTENTION, **options: Any) -> RecurrentEncoderDecoder:
    """A recurrent encoder–decoder with two layers a side, in eval mode."""
    sizes = {"d_model": 16, "num_layers": 2, **options}
    return RecurrentEncoderDecoder(
        SOURCE_VOCABULARY, TARGET_VOCABULARY, cross_attention=attention, **sizes
    ).eval()


def prefix_decoder(attention: AttentionFactory = ATTENTION, **options: Any) -> PrefixDecoder:
    """A decoder over source and target with two layers, in eval mode."""
    sizes = {"d_model": 16, "dim_feedforward": 24, "tie_word_embeddings": False, **options}
    return PrefixDecoder(
        SOURCE_VOCABULARY, TARGET_VOCABULARY, self_attention=attention, **sizes
    ).eval()


def talkative(model: SequenceToSequenceNetwork) -> SequenceToSequenceNetwork:
    """The model with larger weights, so that it generates many different tokens."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        if isinstance(model, PrefixDecoder):
            model.decoder.embedding.weight.mul_(10)
            model.decoder.lm_head.weight.mul_(5)
        else:
            model.target_embedding.weight.mul_(4)  # the last token matters most
            model.lm_head.bias.zero_()
    return model


#: Every kind of encoder–decoder.
KINDS: dict[str, MakeModel] = {
    "transformer": transformer,
    "lstm": partial(recurrent, cell="lstm"),
    "gru": partial(recurrent, cell="gru"),
    "lstm with input feeding": partial(recurrent, cell="lstm", input_feeding=True),
    "gru with input feeding": partial(recurrent, cell="gru", input_feeding=True),
}


#: Every kind of sequence-to-sequence network.
NETWORKS: dict[str, MakeNetwork] = {**KINDS, "prefix decoder": prefix_decoder}


@pytest.fixture(params=list(KINDS))
def make_model(request: pytest.FixtureRequest) -> MakeModel:
    """Makes an encoder–decoder of each kind in turn."""
    return KINDS[request.param]


@pytest.fixture(params=list(NETWORKS))
def make_network(request: pytest.FixtureRequest) -> MakeNetwork:
    """Makes a network of each kind in turn."""
    return NETWORKS[request.param]


@pytest.fixture
def source() -> Tensor:
    """Sources of lengths 5, 3 and 1."""
    return torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, PAD, PAD], [4, PAD, PAD, PAD, PAD]])


@pytest.fixture
def target() -> Tensor:
    """Prefixes of targets, of lengths 4, 2 and 3."""
    return torch.tensor([[START, 3, 4, 5], [START, 6, PAD, PAD], [START, 12, 11, PAD]])
