"""Speed and memory of training, by model, mechanism and precision.

Prints a table, and with --json writes the figures to a file. The first steps, which choose and
compile kernels, are not measured.

    python benchmarks/training.py --device cuda
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from attention_lab.benchmarks.added_callback import added_callback
from attention_lab.config.compose import composed
from attention_lab.config.resolve import RunSpec
from attention_lab.tracking.run_config import resolve
from attention_lab.training.run import train
from attention_lab.training.tasks.base import AttentionTask

FEW = ("data.examples=20000", "data.evaluation_examples=100")
REVERSE = ("data=reverse", "data.batch_size=256", *FEW)
DATA = {
    "encoder_decoder": REVERSE,
    "recurrent_encoder_decoder": REVERSE,
    "prefix_decoder": REVERSE,
    "decoder": ("data=recall", "data.lengths=[256]", "data.batch_size=64", *FEW),
    "encoder_classifier": ("data=listops", "data.batch_size=64", *FEW),
    "self_attention_classifier": ("data=digits", "data.batch_size=256"),
}
MECHANISMS = ("multi_head", "additive", "linear")
#: Models that a GPU also trains compiled.
COMPILED = ("encoder_decoder", "decoder")
FLEX = ("attention=multi_head", "attention.backend=flex", "attention.dropout=0")


class Clock(Callback):
    """Measures tokens per second from some step to the last."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.tokens_per_second = 0.0
        self._start = (0.0, 0)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.warmup:
            self._start = self._now(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            (before, old), (after, new) = self._start, self._now(pl_module)
            self.tokens_per_second = (new - old) / (after - before)

    def _now(self, task: LightningModule) -> tuple[float, int]:
        tokens = int(cast(AttentionTask, task).tokens)  # waits for the device
        return time.perf_counter(), tokens


class Training(NamedTuple):
    """One measured training."""

    model: str
    attention: str
    precision: str
    tokens_per_second: float
    peak_megabytes: float | None


def trainings(device: str, compiled: bool) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Model, mechanism, precision and overrides of each training; each compiled one beside another.

    With ``compiled`` there are only these, twice each, since the speed of a machine varies.
    """
    if compiled or device == "cuda":
        precision = "bf16-mixed" if device == "cuda" else "32-true"
        for model in DATA if compiled else COMPILED:
            plain = ("attention=multi_head", *DATA[model])
            for _ in range(2 if compiled else 1):
                yield model, "multi_head", precision, plain
                yield model, "multi_head, compiled", precision, (*plain, "trainer.compile=true")
    if compiled:
        return
    precisions = ("32-true", "bf16-mixed") if device == "cuda" else ("32-true",)
    for model, data in DATA.items():
        for precision in precisions:
            for mechanism in MECHANISMS:
                yield model, mechanism, precision, (f"attention={mechanism}", *data)
    if device == "cuda":  # where alone FlexAttention trains
        for model in ("encoder_decoder", "decoder"):
            yield model, "multi_head, flex", "bf16-mixed", (*FLEX, *DATA[model])


def measure(
    model: str, precision: str, overrides: Sequence[str], device: str, steps: int
) -> tuple[float, float | None]:
    """Tokens per second and, on a GPU, peak memory in MB of a training."""
    config = composed(
        [
            *(f"model={model}", *overrides, f"trainer.max_steps={steps}", "logger=csv"),
            f"trainer.val_check_interval={steps}",  # validation would count as training
            *(f"trainer={'gpu' if device == 'cuda' else 'cpu'}", f"trainer.precision={precision}"),
        ]
    )
    clock = Clock(steps // 3)
    with tempfile.TemporaryDirectory() as directory, added_callback(clock):
        result = train(RunSpec(resolve(config), Path(directory) / "run"))
    assert result is not None
    # On the CPU it would be the largest that this process, with all trainings so far, has had.
    peak = result["peak_memory_bytes"] if device == "cuda" else None
    return clock.tokens_per_second, peak and peak / 1e6


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=90, help="of each training")
    parser.add_argument("--models", nargs="*", choices=list(DATA), default=list(DATA))
    parser.add_argument("--compiled", action="store_true", help="compare compiled trainings only")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    device: str = chosen.device
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    versions = {"torch": torch.__version__, "lightning": lightning.__version__}
    versions["python"] = platform.python_version()
    measured, failed = [], []
    for model, mechanism, precision, more in trainings(device, chosen.compiled):
        if model in chosen.models:
            try:
                speed_and_memory = measure(model, precision, more, device, chosen.steps)
            except RuntimeError as error:  # the others are measured all the same
                reason, _, _ = str(error).partition("\n")
                failed.append(f"{model}, {mechanism}, {precision}: {reason}")
            else:
                measured.append(Training(model, mechanism, precision, *speed_and_memory))
    figures: dict[str, Any] = {"device": name, "versions": versions}
    figures["trainings"] = [each._asdict() for each in measured]
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    table = Table("model", "attention", "precision", "tokens/s", "peak MB", title=name)
    for each in measured:
        peak = "" if each.peak_megabytes is None else f"{each.peak_megabytes:,.0f}"
        speed = f"{each.tokens_per_second:,.0f}"
        table.add_row(each.model, each.attention, each.precision, speed, peak)
    Console(width=100).print(table)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
