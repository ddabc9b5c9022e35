"""Training a character model: a whole run against loops written by hand.

One loop trains the model of the framework, the other a GPT that is also written by hand. All models
have the size of nanoGPT's small character model (4 layers, 4 heads, d_model 128, 64 characters,
batches of 12) and train on the same batches of the same generated text. A run and a loop train in
one process and take turns every few steps. A loop's optimizer is PyTorch's AdamW with default
options. Run it on an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/decoder.py
"""

import argparse
import itertools
import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from added_callback import added_callback
from overhead import Turns
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from attention_lab.config.compose import composed
from attention_lab.config.resolve import RunSpec, resolve
from attention_lab.data.core.bucket_sampler import BucketBatchSampler
from attention_lab.training.build import BuiltRun, build
from attention_lab.training.run import train

LAYERS, HEADS, WIDTH, LENGTH, BATCH = 4, 4, 128, 64, 12


class Block(nn.Module):
    """One layer of GPT-2, written without the framework."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.other_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)
        self.feed_forward = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        split = self.query_key_value(self.norm(x)).unflatten(-1, (3, HEADS, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.other_norm(x))


class HandWritten(nn.Module):
    """A GPT with tied embeddings and learned positions."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embedding.weight)


def around_the_same_layers(config: Mapping[str, Any]) -> Iterator[None]:
    """Train the framework's model in a loop written by hand; yield after each step."""
    run = build(resolve(config))
    return loop(run, run.task.model.train(), config)


def around_a_gpt(config: Mapping[str, Any]) -> Iterator[None]:
    """Train the hand-written GPT in a loop written by hand; yield after each step."""
    run = build(resolve(config))
    model = HandWritten(run.data.model_arguments()["vocab_size"])
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, run.task.model)]
    assert sizes[0] == sizes[1], f"{sizes[0]} parameters by hand, {sizes[1]} in the framework"
    return loop(run, model, config)


def loop(run: BuiltRun, model: nn.Module, config: Mapping[str, Any]) -> Iterator[None]:
    """A plain training loop; yields after each step."""
    steps = config["trainer"]["max_steps"]
    first, second = config["optimizer"]["betas"]
    optimizer = torch.optim.AdamW(model.parameters(), config["optimizer"]["lr"], (first, second))
    scheduler = run.task.optimization.schedule.scheduler(optimizer, steps)
    batches = run.data.train_dataloader()
    for epoch in itertools.count():
        assert isinstance(batches.sampler, BucketBatchSampler)
        batches.sampler.set_epoch(epoch)
        for batch in batches:
            optimizer.zero_grad()
            logits = model(batch.inputs)
            F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()).backward()
            clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip_val"])
            optimizer.step()
            scheduler.step()
            yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400, help="steps of a run")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    loops = {"same layers": around_the_same_layers, "GPT by hand": around_a_gpt}
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    with tempfile.TemporaryDirectory() as directory:
        text = Path(directory) / "text.txt"
        text.write_text("".join(random.Random(0).choices("etaoin shrdlu,.\n", k=400_000)))
        config = composed(
            [
                *(
                    "data=text",
                    f"data.path={text}",
                    f"data.length={LENGTH}",
                    f"data.batch_size={BATCH}",
                ),
                *("attention=multi_head", f"attention.num_heads={HEADS}", f"model.d_model={WIDTH}"),
                *(f"model.num_layers={LAYERS}", "model.dropout=0.0", "trainer=cpu"),
                f"trainer.max_steps={chosen.steps}",
            ]
        )
        for turn, (name, make_loop) in itertools.product(range(chosen.rounds), loops.items()):
            turns = Turns(make_loop(config))
            with added_callback(turns):
                train(RunSpec(resolve(config), Path(directory) / f"{turn} {name}"))
            pairs[name] += zip(turns.plain, turns.framework, strict=True)
    for name, measured in pairs.items():
        by_hand, ours = (
            statistics.median(BATCH * LENGTH / seconds for seconds in each)
            for each in zip(*measured, strict=True)
        )
        ratio = statistics.median(plain / framework for plain, framework in measured)
        print(
            f"{name}: {by_hand:.0f} tokens/s, attention-lab {ours:.0f}, {ratio:.3f} times as many"
            f" (medians of {len(measured)} turns)"
        )


if __name__ == "__main__":
    main()
