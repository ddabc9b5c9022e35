"""What a cache saves when sequences are written: greedy decoding, with it and without.

Without a cache each step reads all that was written before. Both write the same tokens (checked in
double precision first) and take turns, so that a machine that slows down slows both. Run it with
nothing else on the machine:

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

Write = Callable[[int], Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=256, help="tokens to write")
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
        ("encoder_decoder", pairs, writers(pairs, tokens)),
        ("decoder", language, continuers(language, tokens)),
    ):
        compare(name, network.eval(), *ways, chosen.length, chosen.rounds)


def writers(network: EncoderDecoder, source: Tensor) -> tuple[Write, Write]:
    """Writes targets of a length with a cache, and without."""

    def again(length: int) -> Tensor:
        encoded, written = network.encode(source), source.new_full((len(source), 1), BEGIN)
        for _ in range(length):
            following = network.decode(written, encoded)[:, -1].argmax(-1, keepdim=True)
            written = torch.cat([written, following], dim=1)
        return written[:, 1:]

    return partial(greedy_search, network, source, BEGIN, NO_END), again


def continuers(network: Decoder, prompt: Tensor) -> tuple[Write, Write]:
    """Goes on with prompts for a length with a cache, and without."""

    def again(length: int) -> Tensor:
        written = prompt
        for _ in range(length):
            states = network.hidden_states(written)[:, -1:]
            written = torch.cat([written, network.lm_head(states).argmax(-1)], dim=1)
        return written[:, prompt.shape[1] :]

    return partial(sample, network, prompt, temperature=0), again


@torch.no_grad()
def compare(
    name: str, network: Network, cached: Write, again: Write, length: int, rounds: int
) -> None:
    """Check that both ways write the same, let them take turns, and print the medians."""
    network.double()
    tokens = cached(length)
    assert torch.equal(tokens, again(length)), f"{name}: the cache changes what is written"
    network.float()
    pairs = [(seconds(cached, length), seconds(again, length)) for _ in range(rounds)]
    with_cache, without = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(slow / fast for fast, slow in pairs)
    print(
        f"{name:16} cached {with_cache:.2f} s, all over again {without:.2f} s: {ratio:.1f} ×   "
        f"({len(tokens.unique())} different tokens in {tuple(tokens.shape)}, {rounds} rounds)"
    )


def seconds(write: Write, length: int) -> float:
    """How long it takes to write so many tokens."""
    started = time.perf_counter()
    write(length)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
