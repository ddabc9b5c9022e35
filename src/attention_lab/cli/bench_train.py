"""`attention-lab bench train`: tokens/s of training, beside plain loops and other libraries.

Trains each model in a whole run, in a loop written by hand, and as a Transformer of the same size
by hand, by torch and by x-transformers. All take turns every few steps. Writes training.csv.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attention_lab.cli import fail
from attention_lab.cli.bench_arguments import check_names, names, size, unwritable
from attention_lab.cli.parser import Parser, directory_path
from attention_lab.printing import echo, rich_console

if TYPE_CHECKING:
    from attention_lab.benchmarks.training import Speed


def run(arguments: Sequence[str]) -> int:
    """Measure, print the table, and write it as CSV; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    from attention_lab.training.distributed.cluster_environment import ignore_leftovers

    ignore_leftovers()
    import torch

    from attention_lab.benchmarks.training import (
        STEPS_PER_TURN,
        TRAININGS,
        TrainingSetting,
        benchmark,
        table,
    )

    try:
        check_names("--models", chosen.models, list(TRAININGS))
        if chosen.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no CUDA device; use --device cpu")
        if chosen.steps <= STEPS_PER_TURN:
            raise ValueError(f"--steps {chosen.steps}: must be above {STEPS_PER_TURN}, a turn")
    except ValueError as error:
        return fail(f"bench train: {error}", 2)
    if reason := unwritable(chosen.output):
        return fail(f"bench train: --output {chosen.output}: {reason}", 2)
    speeds: list[Speed] = []
    left_out: dict[str, str] = {}
    setting = TrainingSetting(chosen.steps, chosen.device, chosen.precision, chosen.compile)
    for name in chosen.models or setting.default_trainings():
        measured, skipped = benchmark(name, setting, echo)
        speeds += measured
        left_out |= dict(skipped)
    rich_console().print(table(speeds))
    echo("", "run is: tokens/s of attention-lab train, relative to that row, median of the turns")
    echo("loading: share of a step in which the plain loop waits for its batch")
    echo(*(f"{name}: {reason}" for name, reason in left_out.items()))
    return _write(chosen.output, speeds, chosen.device)


def _write(directory: Path, speeds: Sequence["Speed"], device: str) -> int:
    """Write the table; returns the exit code."""
    from attention_lab.atomic_write import write_atomically
    from attention_lab.benchmarks.training import csv_text

    path = directory / "training.csv"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, csv_text(speeds, device))
    except OSError as error:
        return fail(f"{directory} cannot be written: {error.strerror}; use --output DIR", 1)
    echo(f"table  {path}")
    return 0


def _parser() -> Parser:
    parser = Parser("bench train", __doc__)
    add = parser.add_argument
    models = "character, encoder_decoder, …; default: all, but character_gpu on a GPU only"
    add("--models", type=names, metavar="A,B", help=models)
    add("--steps", type=size, default=49, metavar="N", help="of each training; default: 49")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    precisions = ["32-true", "bf16-mixed"]
    add("--precision", choices=precisions, default="32-true", help="default: 32-true")
    add("--compile", action="store_true", help="compile the run and the loops")
    output = "output directory; default: outputs/bench"
    add("--output", type=directory_path, default=Path("outputs/bench"), metavar="DIR", help=output)
    return parser
