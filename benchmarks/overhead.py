"""What the framework adds to a training step, against a plain PyTorch loop; and what maps cost.

Whole runs (`attention_lab.training.run.train`: Lightning, logs, W&B offline, checkpoints, status)
and plain loops over the same model and the same batches take turns in one process; medians of
seconds per step are compared. Run it with nothing else on the machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/overhead.py
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_

from attention_lab.cli.configuration import config_directory, plain_config
from attention_lab.training.run import build, train


def compose(steps: int, experiment: str) -> dict[str, Any]:
    """An experiment's config, for so many steps and one validation."""
    overrides = [f"experiment={experiment}", f"trainer.max_steps={steps}"]
    with hydra.initialize_config_dir(str(config_directory()), version_base="1.3"):
        return plain_config(hydra.compose("train", overrides))


def plain_seconds(config: Mapping[str, Any]) -> float:
    """Seconds per step of the loop that one would write by hand."""
    run = build(config)
    model, steps = run.objective.model.train(), config["trainer"]["max_steps"]
    optimizer = run.objective.optimizer_options.optimizer(model)
    scheduler = run.objective.optimizer_options.scheduler(optimizer, steps)
    batches, done, started = run.data.train_dataloader(), 0, time.perf_counter()
    for epoch in itertools.count():
        if done == steps:
            break
        batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in batches:
            optimizer.zero_grad()
            logits = model(batch.source, batch.target[:, :-1])
            F.cross_entropy(
                logits.flatten(0, 1),
                batch.target[:, 1:].flatten(),
                ignore_index=0,
                label_smoothing=config["objective"]["label_smoothing"],
            ).backward()
            clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip"])
            optimizer.step()
            scheduler.step()
            done += 1
            if done == steps:
                break
    return (time.perf_counter() - started) / steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=313, help="steps of a run (default: an epoch)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experiment", default="demo")
    chosen = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    config = compose(chosen.steps, chosen.experiment)
    plain, framework, share = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(chosen.rounds):
            if turn % 2:
                plain.append(plain_seconds(config))
            result = train(config, Path(directory) / str(turn), [])
            seconds = result["seconds"]
            framework.append(seconds["training"] / result["steps"])
            share.append(seconds["attention_maps"] / seconds["training"])
            if not turn % 2:
                plain.append(plain_seconds(config))
    before, after = statistics.median(plain), statistics.median(framework)
    print(f"plain loop     {1000 * before:.2f} ms per step (median of {chosen.rounds})")
    print(f"attention-lab  {1000 * after:.2f} ms per step, {100 * (after / before - 1):+.1f} %")
    print(f"maps           {100 * statistics.median(share):.2f} % of training time, on top")


if __name__ == "__main__":
    main()
