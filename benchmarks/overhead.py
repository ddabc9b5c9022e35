"""The overhead of a training step compared with a plain PyTorch loop.

A whole run (`attention_lab.training.run.train`: Lightning, logs, W&B offline, checkpoints, status)
and a loop written by hand train the same model on the same batches in one process. They take turns
every few steps, so that a change of the machine's speed affects both. A Lightning Trainer around
the same steps, without loggers and other callbacks, shows the share of Lightning itself. Run it on
an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/overhead.py
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from torch import Tensor

from attention_lab.benchmarks.added_callback import added_callback
from attention_lab.benchmarks.training import (
    RUN,
    SAME_MODEL,
    STEPS_PER_TURN,
    Turn,
    Turns,
    loss_of,
    plain_loop,
)
from attention_lab.config.compose import composed
from attention_lab.config.resolve import RunSpec
from attention_lab.tracking.run_config import resolve
from attention_lab.training.build import build
from attention_lab.training.evaluation import quiet
from attention_lab.training.run import train


def loop_of(config: Mapping[str, Any]) -> Iterator[Turn]:
    """A plain loop with the model and the optimizer of a run."""
    task = build(resolve(config)).task
    return plain_loop(config, task.model, "cpu", task.optimization.create_optimizer(task.model))


class PlainTask(LightningModule):
    """A LightningModule with a training step and an optimizer only."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config, self.run = config, build(resolve(config))
        self.model = self.run.task.model

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        return loss_of(self.model, batch, self.config["task"]["label_smoothing"])

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


def pairs_of(turns: Turns) -> Iterator[tuple[float, float]]:
    """Seconds per step in each turn, of the plain loop and of the other one."""
    for plain, other in zip(turns.turns[SAME_MODEL], turns.turns[RUN], strict=True):
        yield plain.seconds / STEPS_PER_TURN, other.seconds / STEPS_PER_TURN


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
    with tempfile.TemporaryDirectory() as directory:
        for number in range(chosen.rounds):
            turns = Turns({SAME_MODEL: loop_of(config)}, "cpu")
            with added_callback(turns):
                train(RunSpec(resolve(config), Path(directory) / str(number)))
            pairs += pairs_of(turns)
            train_by_lightning(config, turns := Turns({SAME_MODEL: loop_of(config)}, "cpu"))
            lightning_pairs += pairs_of(turns)
    plain = statistics.median(plain for plain, _ in pairs)
    print(f"plain loop    {1000 * plain:.2f} ms per step (medians of {len(pairs)} turns)")
    show("attention-lab", pairs)
    show("Lightning    ", lightning_pairs)


if __name__ == "__main__":
    main()
