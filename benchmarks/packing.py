"""Tokens per second on data of mixed lengths: shuffled, grouped by length, and packed.

The data are lines of 8 to 128 characters as documents (``--data text``), or pairs of a source of 3
to 60 characters and a target that is up to 30 % shorter or longer (``--data pairs``). Lengths are
log-uniform. The steps of all ways have about the same number of tokens. The ways take turns, so
that a change of the machine's speed affects all of them. Prints medians and quartiles. Run it on an
idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/packing.py
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/packing.py --data pairs
"""

import argparse
import itertools
import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attention_lab.config.compose import composed
from attention_lab.tracking.run_config import resolve
from attention_lab.training.build import build

EXAMPLES = 20_000
STEPS_PER_TURN = 5


class Sizes(NamedTuple):
    """Batch sizes with which the steps of all ways have about the same number of tokens."""

    examples: int
    rows: int


SIZES = {"text": Sizes(64, 22), "pairs": Sizes(128, 40)}
WAYS = ("shuffled", "grouped by length", "packed")


def overrides_of(data: str, directory: Path) -> list[str]:
    """The overrides that choose the data; writes its file."""
    draw, path = random.Random(0), directory / "lines.tsv"

    def characters(length: float) -> str:
        return "".join(draw.choices("etaoinshrdlu", k=round(length)))

    def log_uniform(shortest: int, longest: int) -> float:
        return math.exp(draw.uniform(math.log(shortest), math.log(longest)))

    if data == "text":
        path.write_text("\n".join(characters(log_uniform(8, 128)) for _ in range(EXAMPLES)))
        return ["data=text", f"data.path={path}", "data.length=128", "data.documents=true"]
    sources = [log_uniform(3, 60) for _ in range(EXAMPLES)]
    targets = [min(60, length * draw.uniform(0.7, 1.3)) for length in sources]
    pairs = zip(map(characters, sources), map(characters, targets), strict=True)
    path.write_text("\n".join(map("\t".join, pairs)))
    return ["data=pairs", f"data.train={path}"]


def steps(way: str, sizes: Sizes, overrides: list[str]) -> Iterator[tuple[int, int]]:
    """Train step by step; yields a step's tokens, without and with padding."""
    size = sizes.rows if way == "packed" else sizes.examples
    packing = str(way == "packed").lower()
    own = [f"data.batch_size={size}", f"data.packing={packing}"]
    run = build(resolve(composed([*overrides, *own])))
    task = run.task
    optimizer = task.optimization.create_optimizer(task.model)
    train = run.data.split("train")
    while True:
        batches: Any = run.data.train_dataloader()
        if way == "shuffled":
            rows = torch.randperm(len(train.lengths())).split(size)
            batches = map(train.select, rows)
        for batch in batches:
            optimizer.zero_grad()
            loss = task.loss(batch)
            loss.mean.backward()
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
            optimizer.step()
            padded = batch.inputs.numel()
            if run.data.task == "sequence_to_sequence":
                padded += batch.source.numel()
            yield int(loss.tokens), padded


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=SIZES, default="text")
    parser.add_argument("--turns", type=int, default=20)
    default = ["trainer=cpu", "attention=multi_head"]
    parser.add_argument("overrides", nargs="*", default=default, help="the run")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        overrides = [*overrides_of(chosen.data, Path(directory)), *chosen.overrides]
        loops = {way: steps(way, SIZES[chosen.data], overrides) for way in WAYS}
        speeds: dict[str, list[float]] = {way: [] for way in WAYS}
        tokens = {way: [0, 0] for way in WAYS}
        for turn in range(-1, chosen.turns):
            for way, loop in loops.items():
                started = time.perf_counter()
                taken = list(itertools.islice(loop, STEPS_PER_TURN))
                seconds = time.perf_counter() - started
                real, padded = map(sum, zip(*taken, strict=True))
                if turn >= 0:  # the turn before warms up
                    speeds[way].append(real / seconds)
                tokens[way] = [tokens[way][0] + real, tokens[way][1] + padded]
    for way, own in speeds.items():
        low, median, high = statistics.quantiles(own, n=4)
        padding = 1 - tokens[way][0] / tokens[way][1]
        print(f"{way:18} {median:7,.0f} tokens/s [{low:,.0f}, {high:,.0f}], {padding:.1%} padding")


if __name__ == "__main__":
    main()
