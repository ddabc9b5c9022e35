"""`attention-lab bench`: speed and memory, side by side with other libraries."""

import importlib
from collections.abc import Sequence

from attention_lab.cli import fail
from attention_lab.printing import echo
from attention_lab.spelling import nearest

#: The module and the help line of each benchmark.
BENCHMARKS = {
    "attention": ("bench_attention", "attention of each mechanism on each backend, by length"),
    "train": ("bench_train", "tokens/s of training, beside plain loops and other libraries"),
}

HELP = """\
Speed and memory, side by side with other libraries.

usage: attention-lab bench BENCHMARK …

{benchmarks}

for example
  attention-lab bench attention --attention additive,linear --lengths 128,512
  attention-lab bench attention --help
"""


def run(arguments: Sequence[str]) -> int:
    """Run one benchmark; returns the exit code."""
    name, *rest = list(arguments) or ["--help"]
    if name in ("-h", "--help"):
        lines = (f"  {name:<11}{does}" for name, (_, does) in BENCHMARKS.items())
        echo(*HELP.format(benchmarks="\n".join(lines)).split("\n"))
        return 0
    if name not in BENCHMARKS:
        return fail(f"bench: no such benchmark: {name!r}{nearest(name, BENCHMARKS)}", 2)
    code: int = importlib.import_module(f"attention_lab.cli.{BENCHMARKS[name][0]}").run(rest)
    return code
