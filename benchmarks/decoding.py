"""The time of greedy decoding with a cache and without.

Without a cache, each step processes all earlier tokens again. Both ways generate the same tokens,
which is checked in double precision first. They take turns, so that a change of the machine's speed
affects both. Run it on an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/decoding.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attention_lab.attention import ScaledDotProduct, ScoredAttention, Softmax
from attention_lab.models.base import Network
from attention_lab.models.decoder import Decoder
from attention_lab.models.decoding import greedy_search, sample
from attention_lab.models.encoder_decoder import EncoderDecoder

VOCABULARY, SOURCE_LENGTH, BATCH, WIDTH, LAYERS = 100, 32, 8, 128, 2
BEGIN, NO_END = 1, -1

Generate = Callable[[int], Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=256, help="tokens to generate")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    attention = partial(ScoredAttention, score=ScaledDotProduct, normalizer=Softmax, num_heads=8)
    pairs = EncoderDecoder(
        VOCABULARY,
        VOCABULARY,
        cross_attention=attention,
        d_model=WIDTH,
        num_encoder_layers=LAYERS,
        num_decoder_layers=LAYERS,
    )
    language = Decoder(
        VOCABULARY,
        SOURCE_LENGTH + chosen.length,
        self_attention=attention,
        d_model=WIDTH,
        num_layers=LAYERS,
    )
    tokens = torch.randint(3, VOCABULARY, (BATCH, SOURCE_LENGTH))
    for name, network, ways in (
        ("encoder_decoder", pairs, translating(pairs, tokens)),
        ("decoder", language, continuing(language, tokens)),
    ):
        compare(name, network.eval(), *ways, chosen.length, chosen.rounds)


def translating(network: EncoderDecoder, source: Tensor) -> tuple[Generate, Generate]:
    """Functions that generate targets of a given length, with a cache and without."""

    def uncached(length: int) -> Tensor:
        encoded, tokens = network.encode(source), source.new_full((len(source), 1), BEGIN)
        for _ in range(length):
            following = network.decode(tokens, encoded)[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, following], dim=1)
        return tokens[:, 1:]

    return partial(greedy_search, network, source, BEGIN, NO_END), uncached


def continuing(network: Decoder, prompt: Tensor) -> tuple[Generate, Generate]:
    """Functions that generate continuations of a given length, with a cache and without."""

    def uncached(length: int) -> Tensor:
        tokens = prompt
        for _ in range(length):
            states = network.hidden_states(tokens)[:, -1:]
            tokens = torch.cat([tokens, network.lm_head(states).argmax(-1)], dim=1)
        return tokens[:, prompt.shape[1] :]

    return partial(sample, network, prompt, temperature=0), uncached


@torch.no_grad()
def compare(
    name: str, network: Network, cached: Generate, uncached: Generate, length: int, rounds: int
) -> None:
    """Check that both ways generate the same tokens, time them in turns, and print the medians."""
    network.double()
    tokens = cached(length)
    assert torch.equal(tokens, uncached(length)), f"{name}: the cache changes the tokens"
    network.float()
    pairs = [(seconds(cached, length), seconds(uncached, length)) for _ in range(rounds)]
    with_cache, without = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(slow / fast for fast, slow in pairs)
    print(
        f"{name:16} cached {with_cache:.2f} s, uncached {without:.2f} s: {ratio:.1f} ×   "
        f"({len(tokens.unique())} different tokens in {tuple(tokens.shape)}, {rounds} rounds)"
    )


def seconds(generate: Generate, length: int) -> float:
    """The seconds that it takes to generate ``length`` tokens."""
    started = time.perf_counter()
    generate(length)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
