"""The cost of checkpoints: their share of a run's training time, and the time by their size.

The share is measured on a run that saves ``last`` at every validation, by default once an epoch,
and copies it to ``best``. It is relative to the training time in ``result.json``, which includes
saving. Then single files are written, flushed to disk and read, with a checksum and by torch alone.
Run it on an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/checkpoints.py
"""

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from attention_lab.config.compose import composed
from attention_lab.config.resolve import RunSpec
from attention_lab.tracking.run_config import resolve
from attention_lab.training.checkpoint.callback import Checkpoints
from attention_lab.training.checkpoint.checkpoint_io import read, write
from attention_lab.training.run import train

MILLION = 1_000_000


def seconds_of(call: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextmanager
def measured_saves() -> Iterator[list[float]]:
    """The seconds of each save of a run that is trained in this context."""
    save = Checkpoints.on_validation_end
    seconds: list[float] = []

    def timed(self: Checkpoints, *arguments: Any) -> None:
        seconds.append(seconds_of(lambda: save(self, *arguments)))

    with mock.patch.object(Checkpoints, "on_validation_end", timed):
        yield seconds


def share_of_a_run(overrides: list[str], directory: Path) -> None:
    """Train a run, and print the share of its time that saving took."""
    with measured_saves() as saves:
        result = train(RunSpec(resolve(composed(overrides)), directory))
    assert result is not None
    last = directory / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    digest = 1000 * seconds_of(lambda: hashlib.sha256(content).digest())
    each = 1000 * statistics.median(saves)
    training = result["seconds"]["training"]
    share = 100 * sum(saves) / training
    print(f"a run        {training:.1f} s of training, {result['steps']} steps, {overrides}")
    print(f"saves        {len(saves)}, of {len(content) / MILLION:.1f} MB, {each:.1f} ms each")
    print(f"their share  {share:.2f} % of training time; the checksum is {digest:.1f} ms of each")


def cost_of_a_file(megabytes: int, rounds: int, directory: Path) -> None:
    """Write and read files of one size, with and without checksums, in turns; print the times."""
    checkpoint = {"weights": torch.randn(megabytes * MILLION // 4)}
    content = checkpoint["weights"].numpy().tobytes()
    ours, plain = directory / "ours", directory / "plain"
    times: dict[str, list[float]] = {}

    def write_plainly() -> None:
        with plain.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    for _ in range(rounds):
        for name, call in (
            ("written", lambda: write(checkpoint, ours)),
            ("by torch alone", write_plainly),
            ("read", lambda: read(ours)),
            ("read by torch alone", lambda: torch.load(plain, weights_only=True)),
            ("checksum", lambda: hashlib.sha256(content).digest()),
        ):
            times.setdefault(name, []).append(1000 * seconds_of(call))
    print(f"{megabytes} MB, medians of {rounds}, ms: ", end="")
    print(", ".join(f"{name} {statistics.median(each):.0f}" for name, each in times.items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, nargs="*", default=[1, 100])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "overrides",
        nargs="*",
        default=["data=g2p", "trainer=cpu", "trainer.max_epochs=2", "data.limit=20000"],
        help="the run",
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:  # a disk, not memory
        share_of_a_run([*chosen.overrides, "logger.wandb.mode=disabled"], Path(directory) / "run")
        for size in chosen.megabytes:
            cost_of_a_file(size, chosen.rounds, Path(directory))


if __name__ == "__main__":
    main()
