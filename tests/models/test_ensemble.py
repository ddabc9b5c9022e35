"""Ensembles against the mean of probabilities, computed without caches."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_lab.attention import EluPlusOne, KernelAttention
from attention_lab.models.base import Network
from attention_lab.models.decoding import beam_search, greedy_search, n_best_search, sample
from attention_lab.models.encoder_classifier import EncoderClassifier
from attention_lab.models.ensemble import Ensemble
from tests.models.conftest import ATTENTION, END, NETWORKS, SOURCE_VOCABULARY, START
from tests.models.test_decoding import (
    beam_by_hand,
    every_sequence,
    language_model,
    restless,
    score,
    until_end,
)

LINEAR = partial(KernelAttention, feature_map=EluPlusOne, num_heads=2)


def mean_probabilities(networks: Sequence[Network]) -> Callable[..., Any]:
    """Log-probabilities of the ensemble, by the definition."""

    def log_p(*inputs: Tensor) -> Tensor:
        return torch.stack([network(*inputs).softmax(-1) for network in networks]).mean(0).log()

    return log_p


def different_networks() -> list[Any]:
    """Sequence-to-sequence networks of several classes and mechanisms."""
    return [
        restless(NETWORKS["transformer"]),
        restless(NETWORKS["lstm with input feeding"]),
        restless(NETWORKS["prefix decoder"], attention=LINEAR),
    ]


def test_decoding_averages_the_probabilities_of_different_networks() -> None:
    networks, source = different_networks(), torch.randint(3, SOURCE_VOCABULARY, (20, 5))
    ensemble: Any = Ensemble(networks)
    by_hand: Any = mean_probabilities(networks)
    greedily = until_end(greedy_search(ensemble, source, START, END, 6))
    beams = until_end(beam_search(ensemble, source, START, END, 6, 3))
    with torch.no_grad():
        assert greedily == [beam_by_hand(by_hand, row, 6, 1, 0.6) for row in source]
        assert beams == [beam_by_hand(by_hand, row, 6, 3, 0.6) for row in source]
    assert greedily != beams
    for network in networks:
        assert until_end(beam_search(network, source, START, END, 6, 3)) != beams


def test_the_n_best_are_those_of_all_sequences() -> None:
    networks, n_best = different_networks(), 4
    ensemble: Any = Ensemble(networks)
    by_hand: Any = mean_probabilities(networks)
    for row in torch.randint(3, SOURCE_VOCABULARY, (3, 5)):
        with torch.no_grad():
            everything = every_sequence(by_hand, row, longest=3)
        scores = {tokens: score(log_p, len(tokens), 0.6) for log_p, tokens in everything}
        best = sorted(scores, key=lambda tokens: scores[tokens], reverse=True)[:n_best]
        found = n_best_search(ensemble, row[None], START, END, 3, 2500, n_best)
        assert until_end(found.tokens[0]) == best
        expected = torch.tensor([scores[tokens] for tokens in best])
        torch.testing.assert_close(found.scores[0].float(), expected)


@pytest.mark.parametrize("number", [2, 12])
def test_a_network_several_times_predicts_as_once(number: int) -> None:
    source = torch.randint(3, SOURCE_VOCABULARY, (10, 5))
    for network in different_networks():
        ensemble: Any = Ensemble([network] * number)
        once = n_best_search(network, source, START, END, 6, 4, 3)
        found = n_best_search(ensemble, source, START, END, 6, 4, 3)
        assert torch.equal(found.tokens, once.tokens)
        torch.testing.assert_close(found.scores, once.scores)


def test_samples_are_of_the_mean_probabilities() -> None:
    options = {"std": 0.7, "tie_word_embeddings": False, "init_std": 0.7}
    networks = [language_model(**options), language_model(LINEAR, d_model=8, **options)]
    ensemble: Any = Ensemble(networks)
    by_hand, whole = mean_probabilities(networks), torch.randint(13, (12, 4))
    greedily, other_tokens = sample(ensemble, whole, 8, temperature=0), 0
    for step in range(8):
        following = by_hand(whole)[:, -1]
        assert torch.equal(greedily[:, step], following.argmax(-1))
        for network in networks:
            other_tokens += int((network(whole)[:, -1].argmax(-1) != greedily[:, step]).sum())
        # A temperature is that of the mean.
        coin = partial(torch.Generator().manual_seed, step)
        drawn = sample(ensemble, whole, 1, temperature=2.0, generator=coin())
        expected = torch.multinomial((following / 2.0).softmax(-1), 1, generator=coin())
        assert torch.equal(drawn, expected)
        whole = torch.cat([whole, greedily[:, step, None]], dim=1)
    assert other_tokens > 10


def test_classifiers_average_their_probabilities() -> None:
    sizes = {"num_classes": 3, "max_length": 9, "vocab_size": 11}
    networks = [
        EncoderClassifier(**sizes, self_attention=attention, d_model=width).eval()
        for attention, width in ((ATTENTION, 8), (LINEAR, 16))
    ]
    tokens = torch.randint(1, 11, (6, 9))
    torch.testing.assert_close(Ensemble(networks)(tokens), mean_probabilities(networks)(tokens))


def test_half_precision_and_small_probabilities() -> None:
    """Log-probabilities are in float32, and sum to 1, even where a probability underflows."""
    sizes = {"num_classes": 3, "max_length": 9, "vocab_size": 11, "d_model": 8}
    network = EncoderClassifier(**sizes, self_attention=ATTENTION).eval()
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.tensor([0.0, -500.0, 0.0]))
    log_p = Ensemble([network.bfloat16()] * 2)(torch.randint(1, 11, (2, 9)))
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2))
    torch.testing.assert_close(log_p[:, 1], torch.full((2,), -500.0), rtol=0, atol=2)
