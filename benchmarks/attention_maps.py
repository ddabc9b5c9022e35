"""The cost of attention maps and summaries: time and memory, with one head and with eight.

A run records attention at every other validation. Its time is compared with that of the training
between two validations. Validations with and without maps alternate, so that a change of the
machine's speed affects both. Peak memory is that of two more runs, with and without maps, each
in a process of its own. Run it on an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/attention_maps.py
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from lightning import Callback

from attention_lab.benchmarks.added_callback import added_callback
from attention_lab.config.compose import composed
from attention_lab.config.resolve import RunSpec
from attention_lab.tracking.attention_callback import AttentionMapCallback
from attention_lab.tracking.run_config import resolve
from attention_lab.training.run import train


class Times(Callback):
    """Times the training between validations, and the maps of every other validation.

    Times are pairs: on the clock, and of the processor.
    """

    def __init__(self) -> None:
        #: Seconds of training after validations without maps, and after those with maps.
        self.training: tuple[list[list[float]], list[list[float]]] = ([], [])
        #: Seconds of maps.
        self.maps: list[list[float]] = []
        self._with_maps = False
        self._resumed: list[float] | None = None

    def on_validation_start(self, *_: Any) -> None:
        if self._resumed is not None:
            self.training[self._with_maps].append(_since(self._resumed))

    def record(self, callback: AttentionMapCallback, *arguments: Any) -> None:
        """Record attention at every other validation, in place of the callback's own method."""
        self._with_maps = not self._with_maps
        if self._with_maps:
            started = _now()
            _record(callback, *arguments)
            self.maps.append(_since(started))

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx == 0:
            self._resumed = _now()


_record = AttentionMapCallback.on_validation_end


def _now() -> list[float]:
    return [time.perf_counter(), time.process_time()]


def _since(started: list[float]) -> list[float]:
    return [now - before for now, before in zip(_now(), started, strict=True)]


def measure_time(overrides: Sequence[str]) -> None:
    """Print the time of maps in percent of the training between two validations."""
    times = Times()

    def record(callback: AttentionMapCallback, *arguments: Any) -> None:
        times.record(callback, *arguments)

    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(AttentionMapCallback, "on_validation_end", record),
        added_callback(times),
    ):
        train(RunSpec(resolve(composed(overrides)), Path(directory) / "run"))
    for number, clock in enumerate(("clock", "processor")):
        maps = statistics.median(each[number] for each in times.maps)
        without, after = (
            statistics.median(each[number] for each in cycles) for cycles in times.training
        )
        print(
            f"  {clock:<9} maps {1000 * maps:.0f} ms, training between two {without:.2f} s: "
            f"{100 * maps / without:.2f} %; after maps {100 * (after / without - 1):+.1f} %"
        )


def peak_memory(overrides: Sequence[str], with_maps: bool, sender: Any) -> None:
    """Send the peak memory of a run in MB."""
    record = _record if with_maps else lambda *_: None
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(AttentionMapCallback, "on_validation_end", record),
    ):
        result = train(RunSpec(resolve(composed(overrides)), Path(directory) / "run"))
    assert result is not None
    sender.send((result["peak_memory_bytes"] or 0) / 1e6)


def measure_memory(overrides: Sequence[str]) -> None:
    """Print the peak memory of a run with maps and of one without."""
    context, found = multiprocessing.get_context("spawn"), []
    for with_maps in (False, True):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=peak_memory, args=(overrides, with_maps, sender))
        process.start()
        found.append(receiver.recv())
        process.join()
    print(f"  peak memory {found[0]:.0f} MB without maps, {found[1]:.0f} MB with maps")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("overrides", nargs="*", default=["experiment=demo"], help="the run")
    chosen = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    for heads in (1, 8):
        overrides = [*chosen.overrides, "attention=multi_head", f"attention.num_heads={heads}"]
        print(f"{heads} head{'s' if heads > 1 else ''}", flush=True)
        measure_time([*overrides, f"trainer.max_epochs={chosen.epochs}"])
        measure_memory([*overrides, "trainer.max_epochs=2"])


if __name__ == "__main__":
    main()
