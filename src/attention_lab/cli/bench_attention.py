"""`attention-lab bench attention`: time and memory of attention, beside other libraries.

Measures a forward pass, a forward and backward pass, and a decode step, of each mechanism on each
backend and of other libraries in the same run. Writes attention.csv and attention.svg.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attention_lab.cli import fail
from attention_lab.cli.bench_arguments import (
    check_names,
    names,
    seconds,
    size,
    sizes,
    unwritable,
)
from attention_lab.cli.parser import Parser, directory_path
from attention_lab.printing import counted, echo, rich_console

if TYPE_CHECKING:
    from attention_lab.benchmarks.attention import Results
    from attention_lab.benchmarks.implementations import Implementation, Setting, Skipped

#: Lightning's names of precisions, and torch's of the data types.
PRECISIONS = {
    "64-true": "float64",
    "32-true": "float32",
    "16-true": "float16",
    "bf16-true": "bfloat16",
}


def run(arguments: Sequence[str]) -> int:
    """Measure, print the tables, and write CSV and chart; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints a line for each start
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # and a warning for each cache

    from attention_lab.benchmarks.attention import OtherResult, benchmark

    try:
        setting = _setting(chosen)
        implementations, skipped = _implementations(chosen, setting)
    except ValueError as error:
        return fail(f"bench attention: {error}", 2)
    if reason := unwritable(chosen.output):
        return fail(f"bench attention: --output {chosen.output}: {reason}", 2)
    try:
        results = benchmark(implementations, setting, chosen.repeat, chosen.time_limit, echo)
    except OtherResult as error:
        return fail(f"bench attention: {error}", 1)
    results.skipped[:0] = skipped
    _print(results)
    return _write(results, chosen.output)


def _parser() -> Parser:
    parser = Parser("bench attention", __doc__)
    add = parser.add_argument
    add("--attention", type=names, metavar="A,B", help="mechanisms; default: all")
    backends = "backends; default: all that a mechanism has, but flex on a GPU only"
    add("--backends", type=names, metavar="A,B", help=backends)
    others = "other libraries: flex, layers, additive, linear, or none; default: all"
    add("--peers", type=names, metavar="A,B", help=others)
    lengths = "numbers of positions; default: 128,512,2048"
    add("--lengths", type=sizes, default=[128, 512, 2048], metavar="L,M", help=lengths)
    add("--batch-size", type=size, default=1, metavar="B", help="default: 1")
    add("--num-heads", type=size, default=4, metavar="H", help="default: 4")
    add("--head-dim", type=size, default=32, metavar="E", help="default: 32")
    add("--causal", action="store_true", help="hide later positions from each query")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    precision = "default: 32-true, on CUDA bf16-true"
    add("--precision", choices=PRECISIONS, help=precision)
    add("--repeat", type=size, default=5, metavar="N", help="timed calls of each; default: 5")
    limit = "calls that take longer are left out; default: 0.5"
    add("--time-limit", type=seconds, default=0.5, metavar="SECONDS", help=limit)
    output = "output directory; default: outputs/bench"
    add("--output", type=directory_path, default=Path("outputs/bench"), metavar="DIR", help=output)
    return parser


def _setting(chosen: argparse.Namespace) -> "Setting":
    """The sizes and the device; raises ValueError if they cannot be had."""
    import torch

    from attention_lab.benchmarks.implementations import Setting
    from attention_lab.memory import check_fits

    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device; use --device cpu")
    default = "bf16-true" if chosen.device == "cuda" else "32-true"
    dtype = getattr(torch, PRECISIONS[chosen.precision or default])
    shape = (chosen.batch_size, chosen.num_heads, chosen.head_dim)
    setting = Setting(*shape, chosen.lengths, chosen.device, dtype, chosen.causal)
    longest = max(chosen.lengths)
    free = torch.cuda.mem_get_info()[0] if chosen.device == "cuda" else None
    # Query, key, value and output, and their gradients.
    needed = 8 * chosen.batch_size * longest * setting.embed_dim * dtype.itemsize
    check_fits(f"length {longest:,} needs", needed, free)
    return setting


def _implementations(
    chosen: argparse.Namespace, setting: "Setting"
) -> tuple[list["Implementation"], list["Skipped"]]:
    """What to measure, and what cannot be; raises ValueError for unknown names."""
    from attention_lab.attention import BACKENDS
    from attention_lab.benchmarks.implementations import Skipped, distinct_options, mechanisms
    from attention_lab.benchmarks.peers import GROUPS, peers
    from attention_lab.config.compose import group_options

    check_names("--attention", chosen.attention, list(group_options("attention")))
    check_names("--backends", chosen.backends, [backend.name for backend in BACKENDS])
    check_names("--peers", chosen.peers, [*GROUPS, "none"])
    options = chosen.attention or distinct_options()
    found = [*peers(setting, chosen.peers), *mechanisms(options, chosen.backends, setting)]
    skipped = [each for each in found if isinstance(each, Skipped)]
    return [each for each in found if not isinstance(each, Skipped)], skipped


def _print(results: "Results") -> None:
    from attention_lab.benchmarks.results import crossings, tables

    console = rich_console()
    for table in tables(results, console.width):
        console.print(table)
    echo("", *crossings(results))
    rates = results.ceilings
    echo(
        f"ceilings: {rates.flops / 1e9:,.0f} GFLOP/s in matrix products, "
        f"{rates.bytes / 1e9:,.1f} GB/s copied, {rates.specials / 1e9:,.2f} G exponentials/s"
    )
    if results.skipped:
        echo("", f"{counted(len(results.skipped), 'measurement')} left out:")
        echo(*(f"  {name}: {reason}" for name, reason in results.skipped))


def _write(results: "Results", directory: Path) -> int:
    """Write the table and the chart; returns the exit code."""
    from attention_lab.atomic_write import replacing, write_atomically
    from attention_lab.benchmarks.results import chart, csv_text

    table, image = directory / "attention.csv", directory / "attention.svg"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(table, csv_text(results))
        with replacing(image) as file:
            chart(results).savefig(file, format="svg")
    except OSError as error:
        return fail(f"{directory} cannot be written: {error.strerror}; use --output DIR", 1)
    echo("", f"table  {table}", f"chart  {image}")
    return 0
