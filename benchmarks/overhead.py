"""The overhead of a training step compared with a plain PyTorch loop, and of attention maps.

A whole run (`attention_lab.training.run.train`: Lightning, logs, W&B offline, checkpoints, status)
and a loop written by hand train the same model on the same batches in one process. They take turns
every few steps, so that a change of the machine's speed affects both. A Lightning Trainer around
the same steps, without loggers and other callbacks, shows the share of Lightning itself. Run it on
an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/overhead.py
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from attention_lab.benchmarks.added_callback import added_callback
from attention_lab.config.compose import composed
from attention_lab.config.resolve import RunSpec, resolve
from attention_lab.data.core.bucket_sampler import BucketBatchSampler
from attention_lab.training.build import build
from attention_lab.training.evaluation import quiet
from attention_lab.training.run import train

#: Few, so that the machine's speed is the same for both.
STEPS_PER_TURN = 8


class Turns(Callback):
    """Runs a plain loop for a turn every few steps of a run, and records the times of both."""

    def __init__(self, plain_loop: Iterator[None]) -> None:
        self.plain_loop = plain_loop
        #: Seconds per step, turn by turn.
        self.plain: list[float] = []
        self.framework: list[float] = []
        #: Seconds that training waited for the plain loop.
        self.pauses: list[float] = []
        self._resumed: float | None = None

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % STEPS_PER_TURN:
            return
        paused = time.perf_counter()
        if self._resumed is None:
            next(self.plain_loop)  # builds its model and warms up
        else:
            self.framework.append((paused - self._resumed) / STEPS_PER_TURN)
            started = time.perf_counter()
            list(itertools.islice(self.plain_loop, STEPS_PER_TURN))
            self.plain.append((time.perf_counter() - started) / STEPS_PER_TURN)
        self._resumed = time.perf_counter()
        self.pauses.append(self._resumed - paused)


def plain_loop(config: Mapping[str, Any]) -> Iterator[None]:
    """A plain training loop; yields after each step."""
    run = build(resolve(config))
    model, steps = run.task.model.train(), config["trainer"]["max_steps"]
    optimizer = run.task.optimization.create_optimizer(model)
    scheduler = run.task.optimization.schedule.scheduler(optimizer, steps)
    batches = run.data.train_dataloader()
    for epoch in itertools.count():
        assert isinstance(batches.sampler, BucketBatchSampler)
        batches.sampler.set_epoch(epoch)
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch, config).backward()
            clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip_val"])
            optimizer.step()
            scheduler.step()
            yield


def loss(model: Any, batch: Any, config: Mapping[str, Any]) -> Tensor:
    return F.cross_entropy(
        model(batch.source, batch.target[:, :-1]).flatten(0, 1),
        batch.target[:, 1:].flatten(),
        ignore_index=0,
        label_smoothing=config["task"]["label_smoothing"],
    )


class PlainTask(LightningModule):
    """A LightningModule with a training step and an optimizer only."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config, self.run = config, build(resolve(config))
        self.model = self.run.task.model

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        return loss(self.model, batch, self.config)

    def configure_optimizers(self) -> Any:
        optimization, steps = self.run.task.optimization, self.config["trainer"]["max_steps"]
        optimizer = optimization.create_optimizer(self.model)
        scheduler = optimization.schedule.scheduler(optimizer, steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def train_by_lightning(config: Mapping[str, Any], turns: Turns) -> None:
    """Train with a Trainer that has no loggers and no other callbacks."""
    task = PlainTask(config)
    with quiet():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=config["trainer"]["max_steps"],
            gradient_clip_val=config["trainer"]["gradient_clip_val"],
            callbacks=[turns],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, task.run.data.train_dataloader())


def show(name: str, pairs: Sequence[tuple[float, float]]) -> None:
    """Print what a loop adds to the plain loop, from the seconds per step of both."""
    added = statistics.median(other - plain for plain, other in pairs)
    low, share, high = statistics.quantiles([other / plain - 1 for plain, other in pairs], n=4)
    share, low, high = 100 * share, 100 * low, 100 * high
    print(f"{name} {1000 * added:+.2f} ms, {share:+.1f} % [{low:+.1f}, {high:+.1f}]")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=313, help="steps of a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", default=["experiment=demo"], help="the run")
    chosen = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    config = composed([*chosen.overrides, f"trainer.max_steps={chosen.steps}"])
    pairs: list[tuple[float, float]] = []
    lightning_pairs: list[tuple[float, float]] = []
    maps = []
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(chosen.rounds):
            turns = Turns(plain_loop(config))
            with added_callback(turns):
                result = train(RunSpec(resolve(config), Path(directory) / str(turn)))
            assert result is not None
            pairs += zip(turns.plain, turns.framework, strict=True)
            seconds = result["seconds"]
            maps.append(seconds["attention_maps"] / (seconds["training"] - sum(turns.pauses)))
            train_by_lightning(config, turns := Turns(plain_loop(config)))
            lightning_pairs += zip(turns.plain, turns.framework, strict=True)
    plain = statistics.median(plain for plain, _ in pairs)
    print(f"plain loop    {1000 * plain:.2f} ms per step (medians of {len(pairs)} turns)")
    show("attention-lab", pairs)
    show("Lightning    ", lightning_pairs)
    print(f"maps          {100 * statistics.median(maps):.2f} % of training time, on top")


if __name__ == "__main__":
    main()
