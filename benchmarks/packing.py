"""Tokens per second on a text of lines of mixed lengths: shuffled, grouped by length, and packed.

The lengths of the lines are log-uniform from 8 to 128 characters. The steps of all ways have about
the same number of tokens. The ways take turns, so that a change of the machine's speed affects all
of them. Prints medians and quartiles. Run it on an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/packing.py
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
from typing import Any

import torch

from attention_lab.config.compose import composed
from attention_lab.tracking.run_config import resolve
from attention_lab.training.build import build

LENGTH = 128
#: The batches of all ways have about the same number of tokens.
WAYS = {
    "shuffled": ("data.batch_size=64",),
    "grouped by length": ("data.batch_size=64",),
    "packed": ("data.batch_size=22", "data.packing=true"),
}
STEPS_PER_TURN = 5


def text() -> str:
    """Lines of random characters."""
    draw = random.Random(0)
    lengths = (round(math.exp(draw.uniform(math.log(8), math.log(LENGTH)))) for _ in range(20_000))
    return "\n".join("".join(draw.choices("etaoin shrdlu", k=length)) for length in lengths)


def steps(way: str, overrides: list[str], path: Path) -> Iterator[tuple[int, int]]:
    """Train step by step; yields a step's tokens, without and with padding."""
    own = ["data=text", f"data.path={path}", f"data.length={LENGTH}", "data.documents=true"]
    run = build(resolve(composed([*own, *WAYS[way], *overrides])))
    task = run.task
    optimizer = task.optimization.create_optimizer(task.model)
    train = run.data.split("train")
    while True:
        batches: Any = run.data.train_dataloader()
        if way == "shuffled":
            rows = torch.randperm(len(train.lengths())).split(run.data.batch_size)
            batches = map(train.select, rows)
        for batch in batches:
            optimizer.zero_grad()
            task.loss(batch).mean.backward()
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
            optimizer.step()
            yield int(batch.length.sum()), batch.inputs.numel()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=20)
    default = ["trainer=cpu", "attention=multi_head"]
    parser.add_argument("overrides", nargs="*", default=default, help="the run")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "lines.txt"
        path.write_text(text())
        loops = {way: steps(way, chosen.overrides, path) for way in WAYS}
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
