"""`attention-lab evaluate`: the metrics of a finished run, from its checkpoint."""

import argparse
from collections.abc import Sequence

from attention_lab.cli import fail
from attention_lab.cli.finished_run import (
    DECODING,
    UnusableRun,
    add_decoding,
    add_run,
    given,
    usable,
)


def run(arguments: Sequence[str]) -> int:
    """Evaluate one run on one split and print its metrics."""
    parser = argparse.ArgumentParser("attention-lab evaluate", description=__doc__)
    add_run(parser)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    add_decoding(parser.add_argument_group("sequence to sequence; default: as in the config"))
    chosen = parser.parse_args(arguments)
    decoding = given(chosen, DECODING)
    try:
        with usable(chosen.run, chosen.checkpoint):
            from attention_lab.training.run import evaluate, solves

            if decoding and (task := solves(chosen.run)) != "sequence_to_sequence":
                return fail(f"{chosen.run} is for {task}; it writes nothing with a beam", 2)
            metrics = evaluate(chosen.run, chosen.split, chosen.checkpoint, decoding)
    except UnusableRun as error:
        return fail(str(error), 1)
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{chosen.split}/{name:<{width}} {value:.4f}")
    return 0
