"""Decoding: beam search against all sequences, sampling against the softmax, and caches."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from attention_lab.config.components import create
from attention_lab.models.base import (
    AttentionFactory,
    LanguageNetwork,
    SequenceToSequenceNetwork,
)
from attention_lab.models.decoder import Decoder
from attention_lab.models.decoding import beam_search, greedy_search, n_best_search, sample
from tests.conftest import Compose
from tests.models.conftest import (
    ATTENTION,
    END,
    NETWORKS,
    PAD,
    SOURCE_VOCABULARY,
    START,
    TARGET_VOCABULARY,
    MakeNetwork,
    talkative,
)

#: Mechanisms with different caches: keys, sums, two maps, windows; and positions and masks.
MECHANISMS: dict[str, tuple[str, ...]] = {
    "additive": ("attention=additive",),
    "multi_head": ("attention=multi_head",),
    "latent": ("attention=latent",),
    "linear": ("attention=linear",),
    "performer": ("attention=performer",),
    "differential": ("attention=differential",),
    "local": ("attention=local",),
    **{
        positions: ("attention=multi_head", f"attention/positions={positions}")
        for positions in ("rotary", "alibi", "t5", "shaw", "learned")
    },
    "sliding_window": ("attention=multi_head", "attention/mask=sliding_window"),
    "linear within a window": ("attention=linear", "attention/mask=sliding_window"),
}

Hypothesis = tuple[float, tuple[int, ...]]


def probabilities_after(
    network: SequenceToSequenceNetwork, source: Tensor, prefixes: list[tuple[int, ...]]
) -> Tensor:
    """Log-probabilities (N, V) of what follows prefixes of one length, without any cache."""
    decoded = torch.tensor([[START, *prefix] for prefix in prefixes])
    return network(source.expand(len(prefixes), -1), decoded)[:, -1].log_softmax(-1)


def score(log_p: float, length: int, penalty: float) -> float:
    """Wu et al. 2016, eq. 14."""
    return log_p / ((5 + length) ** penalty / (5 + 1) ** penalty)


def every_sequence(
    network: SequenceToSequenceNetwork, source: Tensor, longest: int
) -> list[Hypothesis]:
    """The log-probability of everything that ends within a length."""
    others = [token for token in range(TARGET_VOCABULARY) if token != END]
    found, before = [], {(): 0.0}
    for length in range(longest):
        prefixes = list(product(others, repeat=length))
        after = probabilities_after(network, source, prefixes)
        found += [
            (before[prefix] + float(row[END]), (*prefix, END))
            for prefix, row in zip(prefixes, after, strict=True)
        ]
        before = {
            (*prefix, token): before[prefix] + float(row[token])
            for prefix, row in zip(prefixes, after, strict=True)
            for token in others
        }
    return found


def beam_by_hand(
    network: SequenceToSequenceNetwork, source: Tensor, longest: int, num_beams: int, penalty: float
) -> tuple[int, ...]:
    """One example, hypothesis by hypothesis, to the very end and without a cache."""
    active: list[Hypothesis] = [(0.0, ())]
    ended: list[Hypothesis] = []
    for _ in range(longest):
        after = probabilities_after(network, source, [tokens for _, tokens in active])
        further = [
            (log_p + float(row[token]), (*tokens, token))
            for (log_p, tokens), row in zip(active, after, strict=True)
            for token in range(TARGET_VOCABULARY)
        ]
        best = sorted(further, reverse=True)[: num_beams - len(ended)]
        ended += [(log_p, tokens) for log_p, tokens in best if tokens[-1] == END]
        active = [(log_p, tokens) for log_p, tokens in best if tokens[-1] != END]
        if not active:
            break
    if not ended:
        return max(active)[1]
    return max(ended, key=lambda each: score(each[0], len(each[1]), penalty))[1]


def until_end(decoded: Tensor) -> list[tuple[int, ...]]:
    """The decoded sequences, each with its end if it has one."""
    rows = (tuple(row) for row in decoded.tolist())
    return [row[: row.index(END) + 1] if END in row else row for row in rows]


def restless(make: MakeNetwork, **options: Any) -> SequenceToSequenceNetwork:
    """A network in double precision that generates many different tokens and often ends."""
    return talkative(make(**options)).double()


def test_a_wide_beam_finds_the_best_of_all_sequences(
    make_network: MakeNetwork, source: Tensor
) -> None:
    lengths: Counter[int] = Counter()
    for _ in range(3):
        network = restless(make_network)
        with torch.no_grad():
            for row in source:
                everything = every_sequence(network, row, longest=3)
                for penalty in (0.0, 1.0, 3.0):
                    best = max(everything, key=lambda e: score(e[0], len(e[1]), penalty))
                    decoded = beam_search(network, row[None], START, END, 3, 2500, penalty)
                    assert until_end(decoded) == [best[1]]
                    lengths[len(best[1])] += 1
    assert len(lengths) > 1  # the best is not always as long


def test_a_wide_beam_finds_the_n_best_of_all_sequences(
    make_network: MakeNetwork, source: Tensor
) -> None:
    network, n_best = restless(make_network), 4
    with torch.no_grad():
        for row in source[:3]:
            everything = every_sequence(network, row, longest=3)
            for penalty in (0.0, 1.0):
                scores = {tuple(e[1]): score(e[0], len(e[1]), penalty) for e in everything}
                best = sorted(scores, key=lambda each: scores[each], reverse=True)[:n_best]
                found = n_best_search(network, row[None], START, END, 3, 2500, n_best, penalty)
                assert [tuple(it) for it in until_end(found.tokens[0])] == best
                expected = torch.tensor([float(scores[each]) for each in best])
                torch.testing.assert_close(found.scores[0].float(), expected)


def test_unfinished_hypotheses_come_after_finished_ones(
    make_network: MakeNetwork, source: Tensor
) -> None:
    """After one step only the empty target has finished."""
    found = n_best_search(make_network(), source, START, END, 1, 50, 5)
    assert (found.tokens[:, 0] == END).all()
    assert (found.tokens[:, 1:] != END).all()
    assert (found.scores[:, 1:].diff(dim=1) <= 0).all()
    with pytest.raises(ValueError, match="n_best must be at most num_beams, got 3 of 2"):
        n_best_search(make_network(), source, START, END, 1, 2, 3)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_a_narrow_beam_does_what_it_would_do_by_hand(
    make_network: MakeNetwork, penalty: float
) -> None:
    unlike_greedy = 0
    for num_beams in (2, 4):
        network, source = restless(make_network), torch.randint(3, SOURCE_VOCABULARY, (10, 5))
        decoded = until_end(beam_search(network, source, START, END, 6, num_beams, penalty))
        with torch.no_grad():
            by_hand = [beam_by_hand(network, row, 6, num_beams, penalty) for row in source]
        assert decoded == by_hand
        greedily = until_end(greedy_search(network, source, START, END, 6))
        unlike_greedy += sum(a != b for a, b in zip(decoded, greedily, strict=True))
    assert unlike_greedy > 2


def test_a_beam_of_one_is_greedy(make_network: MakeNetwork) -> None:
    ended = 0
    for _ in range(3):
        network, source = restless(make_network), torch.randint(3, SOURCE_VOCABULARY, (20, 5))
        expected = until_end(greedy_search(network, source, START, END, 7))
        for penalty in (0.0, 2.0):
            assert until_end(beam_search(network, source, START, END, 7, 1, penalty)) == expected
        ended += sum(row[-1] == END for row in expected)
    assert 0 < ended < 60


def test_an_example_has_a_beam_of_its_own(make_network: MakeNetwork) -> None:
    """Neither other examples of the batch nor more padding change its result."""
    lengths = set()
    for _ in range(3):
        network = restless(make_network)
        source = torch.randint(3, SOURCE_VOCABULARY, (12, 6))
        for row in range(12):
            source[row, 1 + row % 6 :] = PAD
        wide = torch.cat([source, source.new_full((12, 3), PAD)], dim=1)
        together = until_end(beam_search(network, wide, START, END, 8, 3))
        for row, decoded in zip(source, together, strict=True):
            alone = beam_search(network, row[row != PAD][None], START, END, 8, 3)
            assert until_end(alone) == [decoded]
            lengths.add(len(decoded))
    assert len(lengths) > 1


def test_it_stops_as_soon_as_nothing_better_can_come(source: Tensor) -> None:
    """If the end is almost certain, the search stops after one step."""
    network = NETWORKS["gru"]()
    with torch.no_grad():
        network.lm_head.weight.zero_()
        network.lm_head.bias.zero_()
        network.lm_head.bias[END] = 20.0
    assert beam_search(network, source, START, END, 9, 4, 1.0).tolist() == [[END]] * 3
    # Where length counts more than probability, a longer sequence is better.
    with torch.no_grad():
        network.lm_head.bias[END] = 2.0
    decoded = beam_search(network, source, START, END, 9, 4, 20.0)
    assert [len(row) for row in until_end(decoded)] == [2] * 3


def test_more_beams_than_tokens(make_network: MakeNetwork, source: Tensor) -> None:
    decoded = beam_search(make_network(), source, START, END, 1, num_beams=50)
    assert decoded.tolist() == [[END]] * 3  # the only sequence of one token that has ended


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"length_penalty": -0.5}, "length_penalty must be at least 0, got -0.5"),
    ],
)
def test_a_beam_refuses(options: dict[str, Any], message: str, source: Tensor) -> None:
    options = {"max_length": 3, "num_beams": 2, **options}
    with pytest.raises(ValueError, match=message):
        beam_search(NETWORKS["transformer"](), source, START, END, **options)


@pytest.fixture(params=list(MECHANISMS))
def mechanism(request: pytest.FixtureRequest, compose: Compose) -> AttentionFactory:
    """Makes attention of each kind in turn."""
    factory: AttentionFactory = create(compose(*MECHANISMS[request.param])["attention"])
    return factory


@pytest.mark.parametrize("kind", ["transformer", "lstm with input feeding", "prefix decoder"])
def test_a_cache_changes_no_token(kind: str, mechanism: AttentionFactory) -> None:
    changes = 0
    for _ in range(3):
        network = restless(NETWORKS[kind], attention=mechanism)
        source = torch.randint(3, SOURCE_VOCABULARY, (12, 5))
        source[:4, 3:] = PAD
        prefix = torch.full((12, 1), START)
        with torch.no_grad():
            for _ in range(6):
                following = network(source, prefix)[:, -1].argmax(-1, keepdim=True)
                prefix = torch.cat([prefix, following], dim=1)
        decoded = greedy_search(network, source, START, end=-1, max_length=6)
        assert torch.equal(decoded, prefix[:, 1:])
        changes += int((decoded[:, 1:] != decoded[:, :-1]).sum())
    assert changes > 10
    num_beams = until_end(beam_search(network, source, START, END, 5, 3))
    with torch.no_grad():
        assert num_beams[3:5] == [beam_by_hand(network, row, 5, 3, 0.6) for row in source[3:5]]


def language_model(
    attention: AttentionFactory = ATTENTION, vocab_size: int = 13, std: float = 0.2, **options: Any
) -> Decoder:
    """A decoder of two layers in double precision, the surer the larger ``std``, in eval mode."""
    sizes = {"d_model": 16, "num_layers": 2, "positions": "sinusoidal", **options}
    network = Decoder(vocab_size, 20, self_attention=attention, **sizes).double().eval()
    torch.nn.init.normal_(network.embedding.weight, std=std)
    return network


def test_a_cache_changes_no_token_of_a_language_model(mechanism: AttentionFactory) -> None:
    for convolution in (None, 3):
        network = language_model(mechanism, std=0.7, conv_kernel_size=convolution)
        prompt = torch.randint(13, (12, 4))
        whole = prompt
        with torch.no_grad():
            for _ in range(8):
                whole = torch.cat([whole, network(whole)[:, -1].argmax(-1, keepdim=True)], dim=1)
        decoded = sample(network, prompt, 8, temperature=0)
        assert torch.equal(decoded, whole[:, 4:])
        assert len(decoded.unique()) > 2


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    """Two tokens in a row, χ² over all pairs, against probabilities without a cache."""
    network, prompt, drawn = language_model(vocab_size=5), torch.tensor([[3, 1, 4]]), 20_000
    generator = torch.Generator().manual_seed(1)
    for temperature in (1.0, 2.5):
        pairs = sample(network, prompt.expand(drawn, -1), 2, temperature, generator=generator)
        counts = torch.zeros(5, 5).index_put_(tuple(pairs.T), torch.tensor(1.0), accumulate=True)
        first = (network(prompt)[0, -1] / temperature).softmax(-1)
        longer = torch.cat([prompt.expand(5, -1), torch.arange(5).unsqueeze(1)], dim=1)
        second = (network(longer)[:, -1] / temperature).softmax(-1)
        expected = (drawn * first.unsqueeze(1) * second).detach()
        assert expected.min() > 5
        assert chisquare(counts.double().flatten(), expected.flatten()).pvalue > 1e-3
    # Of the other temperature, they are far off.
    expected = drawn * network(prompt)[0, -1].softmax(-1).detach()
    assert chisquare(counts.sum(1).double(), expected).pvalue < 1e-9


def probabilities(network: LanguageNetwork, prompt: Tensor) -> list[float]:
    """Of what follows one prompt."""
    following: list[float] = network(prompt)[0, -1].softmax(-1).tolist()
    return following


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 1}, lambda ordered: 1),
        ({"top_k": 3}, lambda ordered: 3),
        ({"top_k": 99}, len),
        ({"top_p": 1e-6}, lambda ordered: 1),
        ({"top_p": 0.6}, lambda ordered: fewest(ordered, 0.6)),
        ({"top_p": 0.9}, lambda ordered: fewest(ordered, 0.9)),
        ({"top_p": 1.0}, len),
        # Of three, what is left out does not count towards the nucleus.
        (
            {"top_k": 3, "top_p": 0.8},
            lambda ordered: fewest([p / sum(ordered[:3]) for p in ordered[:3]], 0.8),
        ),
    ],
)
def test_the_improbable_is_left_out(
    options: dict[str, Any], kept: Callable[[list[float]], int]
) -> None:
    network, prompt, drawn = language_model(vocab_size=7), torch.tensor([[3, 1, 4]]), 20_000
    probable = probabilities(network, prompt)
    order = sorted(range(7), key=lambda token: -probable[token])
    support = order[: kept([probable[token] for token in order])]
    generator = torch.Generator().manual_seed(1)
    tokens = sample(network, prompt.expand(drawn, -1), 1, generator=generator, **options)
    counts = [int((tokens == token).sum()) for token in support]
    assert sum(counts) == drawn
    share = sum(probable[token] for token in support)
    expected = [drawn * probable[token] / share for token in support]
    assert min(expected) > 5
    if len(support) > 1:
        assert chisquare(counts, expected).pvalue > 1e-3


def fewest(ordered: list[float], least: float) -> int:
    """How many of the most probable it takes to have a probability."""
    return next(n for n in range(1, len(ordered) + 1) if sum(ordered[:n]) >= least)


def test_these_cases_differ() -> None:
    ordered = sorted(probabilities(language_model(vocab_size=7), torch.tensor([[3, 1, 4]])))[::-1]
    first_three = [p / sum(ordered[:3]) for p in ordered[:3]]
    counts = [fewest(ordered, 0.6), fewest(ordered, 0.9), fewest(first_three, 0.8), 3, 7]
    assert 1 < counts[0] < counts[1] < 7
    assert counts[2] < 3


def test_the_coldest_sample_is_greedy_and_any_cold_is_finite() -> None:
    network, prompt = language_model(), torch.randint(13, (6, 3))
    coldest = sample(network, prompt, 9, temperature=0)
    assert torch.equal(sample(network.float(), prompt, 9, temperature=1e-300), coldest)
    assert not torch.equal(sample(network, prompt, 9), coldest)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_suppressed_tokens_are_not_sampled(temperature: float) -> None:
    """The ratios of the other probabilities stay the same."""
    network, prompt, drawn = language_model(vocab_size=7), torch.tensor([[3, 1, 4]]), 20_000
    probable = probabilities(network, prompt)
    order = sorted(range(7), key=lambda token: -probable[token])
    suppressed, left = order[:2], order[2:]
    generator = torch.Generator().manual_seed(1)
    options = {"temperature": temperature, "generator": generator, "suppress_tokens": suppressed}
    tokens = sample(network, prompt.expand(drawn, -1), 1, **options)
    counts = [int((tokens == token).sum()) for token in left]
    if temperature == 0:
        assert counts == [drawn, 0, 0, 0, 0]
        return
    share = sum(probable[token] for token in left)
    assert chisquare(counts, [drawn * probable[token] / share for token in left]).pvalue > 1e-3
    # Of those left, two are the most probable.
    tokens = sample(network, prompt.expand(drawn, -1), 1, top_k=2, **options)
    assert set(tokens.flatten().tolist()) == set(left[:2])


def test_a_generator_decides() -> None:
    network, prompt = language_model(), torch.randint(13, (6, 3))
    draw = partial(sample, network, prompt, 9)
    one, same, other = (draw(generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_there_is_no_more_text_than_positions() -> None:
    network, prompt = language_model(positions="learned"), torch.randint(13, (2, 3))
    assert sample(network, prompt, 18).shape == (2, 18)  # nobody reads the last
    with pytest.raises(ValueError, match="21 positions, but only 20 were learned"):
        sample(network, prompt, 19)
    with pytest.raises(ValueError, match="22 positions, but only 20 were learned"):
        sample(network, torch.randint(13, (2, 22)), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
        ({"prompt": torch.zeros(2, 0)}, "the prompt is empty"),
        ({"suppress_tokens": [2, 13]}, r"suppress_tokens must be ids below 13, .* got \[2, 13\]"),
        ({"suppress_tokens": list(range(13))}, "and not all of them"),
    ],
)
def test_a_sample_refuses(options: dict[str, Any], message: str) -> None:
    options = {"prompt": torch.zeros(2, 1, dtype=torch.int64), "length": 2, **options}
    with pytest.raises(ValueError, match=message):
        sample(language_model(), **options)
